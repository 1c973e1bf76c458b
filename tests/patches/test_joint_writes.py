"""Rows that are written together are the rows that each would have been alone."""

import asyncio
import functools
import inspect

import pytest
import ray
import torch
import transfer_queue
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_leaf.patches.joint_writes import JointWrites

pytestmark = pytest.mark.e2e


class Counting:
    """The queue, which notes the keys of each write."""

    def __init__(self, queue):
        self.queue, self.writes = queue, []

    async def async_kv_batch_put(self, keys, **rows):
        self.writes.append(keys)
        return await self.queue.async_kv_batch_put(keys=keys, **rows)


@pytest.fixture
def counting(queue):
    yield Counting(queue)
    for partition, rows in queue.kv_list().items():
        if rows:
            queue.kv_clear(keys=list(rows), partition_id=partition)


def row(number: int, length: int, **more) -> dict:
    return {
        "input_ids": torch.arange(length) + 100 * number,
        "rm_score": torch.tensor(float(number)),
        "multi_modal_inputs": {"features_key": torch.tensor([number])},
        "uid": f"prompt {number // 2}",
        **more,
    }


def write(counting, rows: list[dict], partitions: list[str]) -> list:
    """All at once; what each write raised."""
    joint = JointWrites(counting, list_of_dict_to_tensordict)

    async def one(number):
        await joint.async_kv_batch_put(
            keys=[f"key {number}"], fields=[rows[number]], tags=[{"number": number}], partition_id=partitions[number]
        )

    async def together():
        writes = asyncio.gather(*map(one, range(len(rows))), return_exceptions=True)
        return await asyncio.wait_for(writes, 60)

    return asyncio.run(together())


def test_rows_that_come_together_are_written_together_and_read_one_by_one(counting, queue):
    lengths = [3, 5, 5, 1, 8, 2, 2]
    rows = [row(number, length) for number, length in enumerate(lengths)]
    rows[4]["more"] = "of one row alone"
    rows[5]["position_ids"], rows[6]["position_ids"] = torch.zeros(4, 2), torch.ones(4, 3)
    partitions = ["train"] * 7
    partitions[1] = "val"
    assert write(counting, rows, partitions) == [None] * 7
    named = [[int(key.split()[1]) for key in keys] for keys in counting.writes]
    assert sorted(named) == [[0, 2, 3], [1], [4], [5], [6]]
    for number, expected in enumerate(rows):
        found = queue.kv_batch_get(keys=[f"key {number}"], partition_id=partitions[number])
        assert set(found.keys()) == set(expected)
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found[name][0].reshape(value.shape), value)
        assert found["uid"][0] == expected["uid"]
        inputs = found["multi_modal_inputs"][0]
        assert torch.equal(getattr(inputs, "data", inputs)["features_key"], torch.tensor([number]))
        assert queue.kv_list(partitions[number])[partitions[number]][f"key {number}"]["number"] == number


def test_a_row_that_cannot_be_written_fails_alone(counting, queue):
    rows = [row(0, 2), row(1, 2, uid=(each for each in ())), row(2, 2)]  # no generator can be pickled
    first, second, third = write(counting, rows, ["train"] * 3)
    assert first is third is None and "generator" in str(second)
    assert set(queue.kv_list()["train"]) >= {"key 0", "key 2"}


def test_nobody_waits_for_one_who_has_gone(counting, queue):
    joint = JointWrites(counting, list_of_dict_to_tensordict)
    put = functools.partial(joint.async_kv_batch_put, tags=[{}], partition_id="train")

    async def one_is_cancelled():
        gone = asyncio.create_task(put(keys=["gone"], fields=[row(0, 2)]))
        stays = asyncio.create_task(put(keys=["stays"], fields=[row(1, 2)]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait_for(stays, 20)

    asyncio.run(one_is_cancelled())
    assert "stays" in queue.kv_list()["train"]


def test_verls_own_worker_takes_the_joint_writes_along(needed):
    """Ray sends it by value, with the names that it uses."""
    worker = agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class
    received = ray.cloudpickle.loads(ray.cloudpickle.dumps(worker))
    names = inspect.unwrap(received._agent_loop_postprocess).__globals__
    assert names is not vars(agent_loop_tq) and isinstance(names["tq"], JointWrites)
    assert (
        names["list_of_dict_to_tensordict"]([{"a": 1}]) == [{"a": 1}] and names["tq"].kv_list is transfer_queue.kv_list
    )
