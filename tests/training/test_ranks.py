"""The same rollouts train the same weights on one rank, on two, and on two nodes."""

import pytest
import torch

from tests.helpers.trained import PROMPTS, K, trained
from verl_leaf.patches.v1_trainer import deal, mini_batches
from verl_leaf.runs.checkpoints.weights import trained_weights


@pytest.mark.slow
def test_ranks_and_nodes_train_what_one_rank_trains(models, tmp_path):
    """In three updates of a prompt each, by verl's own worker; two nodes have copies of each other's shards."""
    keys = [f"{prompt}_{response}_0" for prompt in range(PROMPTS) for response in range(K)]
    parts, half = mini_batches(keys, 1, K), len(keys) // 2
    one, two, four = (deal(parts, K, [1] * len(keys), ranks, True) for ranks in (1, 2, 4))
    blocks = [list(range(half)), list(range(half, len(keys)))]  # which would mix two prompts in every update
    [on_one] = trained(models("qwen2_audio"), {"one": one}, tmp_path)
    on_two, mixed = trained(models("qwen2_audio"), {"two": two, "mixed": blocks}, tmp_path)
    [on_nodes] = trained(models("qwen2_audio"), {"nodes": four}, tmp_path, shards=2)
    for found in on_two, on_nodes:
        assert (found - on_one).norm() < 1e-3 * (mixed - on_one).norm()
    saved = trained_weights(tmp_path / "nodes.checkpoint", None)
    adapter = torch.cat([saved[name]().flatten() for name in sorted(saved) if "lora_" in name])
    assert torch.equal(adapter, on_nodes)
