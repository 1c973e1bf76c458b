"""lambda-GRPO: numbers in full, and its definition."""

import pytest
import torch
from hypothesis import given, settings

from tests.algorithm.test_properties import batches, seeds
from tests.helpers.batches import flat, pack
from tests.helpers.reference import lambda_grpo
from verl_leaf.algorithm import grpo_advantages, lambda_grpo_advantages

NAMES = ("responses", "rewards", "mask", "group", "lengths")


def run(batch):
    return lambda_grpo_advantages(**{name: getattr(batch, name) for name in NAMES}).advantages


def test_the_worked_example():
    """GRPO's advantages, over 4 at `5 6`, over 3 and 1 at the next token, over 2 and 1 at the fourth."""
    groups = [
        {
            "responses": [[5, 6, 7, 8, 9], [5, 6, 7, 4, 9], [5, 6, 3, 8, 9], [5, 6, 7, 8, 2]],
            "rewards": [1.0, 0.5, 0.0, 0.8],
        },
        {"responses": [[5, 6], [5, 6], [5]], "rewards": [1.0, 0.0, 0.5]},
    ]
    grpo = [0.97716, -0.17244, -1.32204, 0.51732]
    shared = [[4, 4, 3, 2, 1], [4, 4, 3, 1, 1], [4, 4, 1, 1, 1], [4, 4, 3, 2, 1]]
    wanted = [[a / n for n in of] for a, of in zip(grpo, shared, strict=True)]
    batch = pack(groups)
    found = run(batch)
    assert flat(found[batch.rows[0]].tolist()) == pytest.approx(flat(wanted), abs=2e-5)
    assert flat(found[batch.rows[1], :2].tolist()) == pytest.approx([1 / 3, 1 / 2, -1 / 3, -1 / 2, 0, 0], abs=1e-5)


@settings(max_examples=250, deadline=None)
@given(batches, seeds)
def test_agrees_with_the_definition(groups, seed):
    batch = pack(groups, seed=seed)
    found = run(batch)
    for rows, group in zip(batch.rows, groups, strict=True):
        wanted = lambda_grpo(group["responses"], group["rewards"])
        for row, policy, paid in zip(rows, group["policy"], wanted, strict=True):
            assert found[row, : len(paid)].tolist() == pytest.approx(
                [a * w for a, w in zip(paid, policy, strict=True)], abs=1e-8
            )
    assert not found[batch.mask == 0].any()


@settings(max_examples=40, deadline=None)
@given(batches, seeds)
def test_all_that_share_a_token_together_give_it_the_mean_of_their_advantages(groups, seed):
    """Which is the identity of the README: what each is paid does not matter, only the sum over a node."""
    batch = pack([group | {"policy": [[1] * len(y) for y in group["responses"]]} for group in groups], seed=seed)
    found, grpo = run(batch), grpo_advantages(batch.rewards, batch.group)
    for rows, group in zip(batch.rows, groups, strict=True):
        for y in group["responses"]:
            for t in range(len(y)):
                node = [
                    row for row, other in zip(rows, group["responses"], strict=True) if other[: t + 1] == y[: t + 1]
                ]
                assert found[node, t].sum().item() == pytest.approx(grpo[node].mean().item(), abs=1e-8)


@pytest.mark.parametrize("rows, width", [(0, 0), (0, 5), (3, 0)])
def test_batches_without_rows_or_tokens(rows, width):
    empty, group = torch.zeros(rows, width), torch.zeros(rows, dtype=torch.long)
    assert lambda_grpo_advantages(empty.long(), torch.zeros(rows), empty, group).advantages.shape == (rows, width)
