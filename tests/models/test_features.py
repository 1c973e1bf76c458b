"""Audio features through a real TransferQueue."""

import asyncio

import pytest
import ray
import torch
import transfer_queue as tq
from torch.nn import functional as F

from verl_leaf.models.features import PARTITION, FeatureCache, concatenate, release, store


@pytest.fixture(scope="module")
def queue():
    ray.init("local", num_cpus=4, include_dashboard=False)
    tq.init()
    yield
    tq.close()
    ray.shutdown()


def test_features_come_back_to_the_bit_in_the_order_of_the_rows(queue):
    one, two = (
        {
            "input_features": torch.randn(clips, 8, frames),
            "feature_attention_mask": torch.ones(clips, frames, dtype=torch.int32),
            "lengths": torch.full((clips,), frames),
        }
        for clips, frames in ((1, 22), (2, 30))
    )

    async def put():
        return [await store(features) for features in (one, two)]

    keys = asyncio.run(put())
    rows = FeatureCache().fetch(torch.cat([keys[1], keys[0], keys[1]]))
    assert rows[0] is rows[2]
    fetched = concatenate(rows)
    for name, tensor in fetched.items():
        assert tensor.dtype == one[name].dtype
        filled = one[name] if name == "lengths" else F.pad(one[name], (0, 8))
        assert torch.equal(tensor, torch.cat([two[name], filled, two[name]]))
    asyncio.run(release(keys))
    assert not tq.kv_list(PARTITION).get(PARTITION)
