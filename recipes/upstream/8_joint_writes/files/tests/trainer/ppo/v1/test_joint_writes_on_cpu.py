# Copyright 2026 Bytedance Ltd. and/or its affiliates
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Rows that are written together are the rows that each would have been alone, in a real TransferQueue."""

import asyncio

import pytest
import ray
import torch
import transfer_queue as tq

from verl.trainer.ppo.v1 import agent_loop_tq
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ, JointWriter


@pytest.fixture(scope="module", autouse=True)
def tq_init():
    # logical ones, so that a small host will do
    ray.init(num_cpus=8, include_dashboard=False, ignore_reinit_error=True)
    tq.init()
    yield
    tq.close()


@pytest.fixture
def writes(monkeypatch):
    """The keys of each write."""
    found, put = [], tq.async_kv_batch_put

    async def counting(keys, **rows):
        found.append(keys)
        return await put(keys=keys, **rows)

    monkeypatch.setattr(agent_loop_tq.tq, "async_kv_batch_put", counting)
    yield found
    for partition, rows in tq.kv_list().items():
        if rows:
            tq.kv_clear(keys=list(rows), partition_id=partition)


def _row(number, length, **more):
    return {
        "input_ids": torch.arange(length) + 100 * number,
        "rm_score": torch.tensor(float(number)),
        "multi_modal_inputs": {"pixel_values": torch.tensor([number])},
        "uid": f"prompt {number // 2}",
        **more,
    }


def _write(rows, partitions):
    """Write all at once; return what each write raised."""
    writer = JointWriter()

    async def together():
        puts = [
            writer.put(keys=[f"key {number}"], fields=[row], tags=[{"number": number}], partition_id=partitions[number])
            for number, row in enumerate(rows)
        ]
        return await asyncio.wait_for(asyncio.gather(*puts, return_exceptions=True), 60)

    return asyncio.run(together())


def test_rows_are_written_together_and_read_one_by_one(writes):
    rows = [_row(number, length) for number, length in enumerate([3, 5, 5, 1, 8, 2, 2])]
    rows[4]["more"] = "of one row alone"
    rows[5]["position_ids"], rows[6]["position_ids"] = torch.zeros(4, 2), torch.ones(4, 3)
    partitions = ["train"] * 7
    partitions[1] = "val"
    assert _write(rows, partitions) == [None] * 7
    assert sorted([int(key.split()[1]) for key in keys] for keys in writes) == [[0, 2, 3], [1], [4], [5], [6]]
    for number, expected in enumerate(rows):
        found = tq.kv_batch_get(keys=[f"key {number}"], partition_id=partitions[number])
        assert set(found.keys()) == set(expected) and found["uid"][0] == expected["uid"]
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found[name][0].reshape(value.shape), value)
        assert tq.kv_list(partitions[number])[partitions[number]][f"key {number}"]["number"] == number


def test_a_row_that_cannot_be_written_fails_alone(writes):
    rows = [_row(0, 2), _row(1, 2, uid=(each for each in ())), _row(2, 2)]  # no generator can be pickled
    first, second, third = _write(rows, ["train"] * 3)
    assert first is third is None and "generator" in str(second)
    assert set(tq.kv_list()["train"]) >= {"key 0", "key 2"}


def test_a_cancelled_agent_loop_holds_up_no_other(writes):
    writer = JointWriter()

    async def one_is_cancelled():
        gone = asyncio.create_task(writer.put(["gone"], [_row(0, 2)], [{}], "train"))
        stays = asyncio.create_task(writer.put(["stays"], [_row(1, 2)], [{}], "train"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait_for(stays, 20)

    asyncio.run(one_is_cancelled())
    assert "stays" in tq.kv_list()["train"]


def test_ray_can_send_the_worker():
    worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(worker)).joint_writer is not None
