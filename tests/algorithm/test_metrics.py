"""The numbers of a step, against the worked example counted by hand."""

import pytest
import torch

from verl_leaf.algorithm import leaf_advantages, leaf_metrics


def test_worked_example_beside_a_group_without_signal():
    responses = torch.tensor(
        [[5, 6, 7, 8, 9], [1, 2, 0, 0, 0], [5, 6, 7, 4, 9], [5, 6, 3, 8, 9], [1, 2, 0, 0, 0], [5, 6, 7, 8, 2]]
    )
    surprisal = torch.tensor(
        [
            [0.1, 0.2, 0.9, 1.5, 0.1],
            [0.3, 0.4, 9.0, 9.0, 9.0],
            [0.1, 0.2, 0.9, 2.0, 0.2],
            [0.1, 0.2, 2.5, 0.3, 0.1],
            [0.3, 0.4, 9.0, 9.0, 9.0],
            [0.1, 0.2, 0.9, 1.5, 1.2],
        ]
    )
    rewards = torch.tensor([1.0, 0.7, 0.5, 0.0, 0.7, 0.8])
    mask = torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [1] * 5, [1] * 5, [1, 1, 0, 0, 0], [1] * 5])
    group = torch.tensor([0, 1, 0, 0, 1, 0])
    metrics = leaf_metrics(leaf_advantages(responses, surprisal, rewards, mask, group), rewards, mask)
    # Boundaries: 2 and 4 in group 0; 1 in group 1, where both responses are one node of equal rewards.
    # GRPO has the signs + - - +. Against it: tokens 0 and 1 of responses 0 and 3 of group 0, so 4 of 24 tokens.
    assert metrics == pytest.approx(
        {
            "boundaries_per_prompt": 3 / 2,
            "fired_share": 1,
            "usable_share": 2 / 3,
            "node_size": (4 + 2 + 2) / 3,
            "boundary_position": (2 + 4 + 1) / 3,
            "boundary_position_relative": (2 / 5 + 4 / 5 + 1 / 2) / 3,
            "spans_per_response": (3 + 2 + 2 + 3 + 2 + 2) / 6,
            "sign_changed_share": 4 / 24,
            "no_signal_share": 1 / 2,
        }
    )
    assert all(type(value) is float for value in metrics.values())
    # verl fills a batch up with responses of one token that the policy did not write (trainer/ppo/padding_utils.py).
    lengths = torch.tensor([5, 2, 5, 5, 2, 5, 1, 1])
    responses, surprisal, rewards, mask = (
        torch.cat([rows, torch.zeros(2, *rows.shape[1:], dtype=rows.dtype)])
        for rows in (responses, surprisal, rewards, mask)
    )
    group = torch.cat([group, torch.tensor([2, 2])])
    filled = leaf_advantages(responses, surprisal, rewards, mask, group, lengths=lengths)
    assert leaf_metrics(filled, rewards, mask) == metrics


@pytest.mark.parametrize("budget", [0, 2])
def test_nothing_to_take_a_mean_of(budget):
    responses, mask, rewards = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3), torch.tensor([0.0, 1.0])
    result = leaf_advantages(responses, torch.zeros(2, 3), rewards, mask, torch.zeros(2).long(), fork_budget=budget)
    assert set(leaf_metrics(result, rewards, mask).values()) == {0.0}
