"""GRPO's advantages: verl's own function, and numbers counted by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from tests.algorithm.test_properties import batches, seeds
from tests.helpers.batches import pack
from verl_leaf.algorithm import grpo_advantages, grpo_floored_advantages


@settings(max_examples=60, deadline=None)
@given(batches, seeds)
def test_pays_what_verl_pays(groups, seed):
    batch = pack(groups, seed=seed)
    token_level = torch.zeros(len(batch.rewards), 1, dtype=torch.float64) + batch.rewards[:, None]
    index = np.array([f"prompt {g}" for g in batch.group.tolist()], dtype=object)
    wanted, _ = compute_grpo_outcome_advantage(token_level, torch.ones(len(index), 1), index)
    torch.testing.assert_close(grpo_advantages(batch.rewards, batch.group), wanted[:, 0], rtol=0, atol=1e-6)


def test_two_groups_and_a_lone_response():
    """Rewards 1, 0.5, 0, 0.8 have the mean 0.575 and the standard deviation sqrt(0.1891667) = 0.4349329."""
    rewards = torch.tensor([1.0, 0.3, 0.5, 0.7, 0.0, 0.3, 0.8], dtype=torch.float64)
    group = torch.tensor([0, 1, 0, 2, 0, 1, 0])
    wanted = [0.97716, 0.0, -0.17244, 0.7, -1.32204, 0.0, 0.51732]
    assert grpo_advantages(rewards, group).tolist() == pytest.approx(wanted, abs=1e-5)
    floored = grpo_floored_advantages(rewards, group, floor=0.5)
    assert floored.tolist() == pytest.approx([0.85, 0, -0.15, 0, -1.15, 0, 0.45], abs=1e-12)


def test_equal_rewards_pay_exactly_nothing():
    rewards, group = torch.full((3,), 0.1), torch.zeros(3, dtype=torch.long)
    assert grpo_advantages(rewards, group).tolist() == [0, 0, 0]
    assert grpo_floored_advantages(rewards, group).tolist() == [0, 0, 0]


@pytest.mark.parametrize("function", [grpo_advantages, grpo_floored_advantages])
def test_no_rows_and_wrong_arguments(function):
    assert function(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)
    good = torch.zeros(2), torch.tensor([0, 0])
    for name, arguments in [
        ("rewards", (torch.zeros(2, 1), good[1])),
        ("rewards", (torch.zeros(2).long(), good[1])),
        ("group", (good[0], torch.zeros(3).long())),
        ("group", (good[0], torch.zeros(2))),
        ("group", (good[0], torch.tensor([-1, 0]))),
    ]:
        with pytest.raises(ValueError, match=f"^{name} must"):
            function(*arguments)
