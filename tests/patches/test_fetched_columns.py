"""A worker gets tensors and what the model needs, and nothing else of a batch."""

import pytest
import torch
from tensordict import NonTensorStack, TensorDict
from verl.utils import transferqueue_utils

pytestmark = pytest.mark.e2e


@pytest.fixture
def batch(queue):
    """Two rows as an agent loop puts them, and what the trainer hands to its workers."""
    keys = ["a_0_0", "a_1_0"]
    columns = {
        "input_ids": torch.nested.as_nested_tensor([torch.arange(3), torch.arange(5)], layout=torch.jagged),
        "rm_scores": torch.ones(2, 1),
        "multi_modal_inputs": NonTensorStack({"features_key": torch.ones(1)}, {}),
        "raw_prompt": NonTensorStack([{"role": "user"}], [{"role": "user"}]),
        "uid": NonTensorStack("a", "a"),
    }
    meta = queue.kv_batch_put(keys=keys, partition_id="fetch", fields=TensorDict(columns, batch_size=2), tags=[{}, {}])
    meta.extra_info["temperature"] = 0.8
    yield meta
    queue.kv_clear(keys=keys, partition_id="fetch")


@pytest.mark.parametrize("named", [True, False])
def test_a_worker_gets_tensors_and_multi_modal_inputs(batch, named):
    assert "raw_prompt" in batch.fields
    if not named:
        batch.fields = None  # as the replay buffer hands it over
    data = transferqueue_utils._meta_to_realdata(batch)
    assert set(data.keys()) == {"input_ids", "rm_scores", "multi_modal_inputs", "temperature"}
    assert data["input_ids"].offsets().tolist() == [0, 3, 8] and data["temperature"] == 0.8
    first, second = data["multi_modal_inputs"]
    assert torch.equal(getattr(first, "data", first)["features_key"], torch.ones(1)) and not getattr(
        second, "data", second
    )


def test_the_trainer_still_finds_the_others(batch, queue):
    assert list(queue.kv_batch_get(keys=batch.keys, partition_id="fetch", select_fields=["uid"])["uid"]) == ["a", "a"]
