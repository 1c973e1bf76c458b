"""The same rollouts train the same weights on one rank and on two."""

import pytest

from tests.helpers.trained import PROMPTS, K, trained
from verl_leaf.patches.v1_trainer import deal, mini_batches


@pytest.mark.slow
def test_two_ranks_train_what_one_rank_trains(models, tmp_path):
    """In three updates of a prompt each, by verl's own worker."""
    keys = [f"{prompt}_{response}_0" for prompt in range(PROMPTS) for response in range(K)]
    parts, half = mini_batches(keys, 1, K), len(keys) // 2
    one, two = (deal(parts, K, [1] * len(keys), ranks, True) for ranks in (1, 2))
    blocks = [list(range(half)), list(range(half, len(keys)))]  # which would mix two prompts in every update
    [on_one] = trained(models("qwen2_audio"), {"one": one}, tmp_path)
    on_two, mixed = trained(models("qwen2_audio"), {"two": two, "mixed": blocks}, tmp_path)
    assert (on_two - on_one).norm() < 1e-3 * (mixed - on_one).norm()
