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
"""A worker fetches tensors and multi_modal_inputs, and no other objects of a batch, from a real TransferQueue."""

import pytest
import ray
import torch
import transfer_queue as tq
from tensordict import NonTensorStack, TensorDict

from verl.utils import transferqueue_utils

KEYS = ["a_0_0", "a_1_0"]


@pytest.fixture(scope="module", autouse=True)
def tq_init():
    # logical ones, so that a small host will do
    ray.init(num_cpus=8, include_dashboard=False, ignore_reinit_error=True)
    tq.init()
    yield
    tq.close()


@pytest.fixture
def batch():
    """Two rows as an agent loop leaves them, and what the trainer hands to its workers."""
    columns = {
        "input_ids": torch.nested.as_nested_tensor([torch.arange(3), torch.arange(5)], layout=torch.jagged),
        "rm_scores": torch.ones(2, 1),
        "multi_modal_inputs": NonTensorStack({"pixel_values": torch.ones(1)}, {}),
        "raw_prompt": NonTensorStack([{"role": "user"}], [{"role": "user"}]),
        "uid": NonTensorStack("a", "a"),
    }
    meta = tq.kv_batch_put(keys=KEYS, partition_id="train", fields=TensorDict(columns, batch_size=2), tags=[{}, {}])
    meta.extra_info["temperature"] = 0.8
    yield meta
    tq.kv_clear(keys=KEYS, partition_id="train")


@pytest.mark.parametrize("fields", ["all", None, ["input_ids", "uid"]])
def test_a_worker_fetches_tensors_and_multi_modal_inputs(batch, fields):
    if fields != "all":
        batch.fields = fields
    data = transferqueue_utils._meta_to_realdata(batch)
    expected = {"input_ids"} if fields == ["input_ids", "uid"] else {"input_ids", "rm_scores", "multi_modal_inputs"}
    assert set(data.keys()) == expected | {"temperature"}
    assert data["input_ids"].offsets().tolist() == [0, 3, 8]


def test_the_trainer_finds_the_others(batch):
    found = tq.kv_batch_get(keys=KEYS, partition_id="train", select_fields=["uid"])
    assert list(found["uid"]) == ["a", "a"]
