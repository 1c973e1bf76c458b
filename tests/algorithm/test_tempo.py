"""TEMPO: numbers in full, and its definition."""

import pytest
import torch
from hypothesis import given, settings

from tests.algorithm.test_properties import batches, seeds
from tests.helpers.batches import flat, pack
from tests.helpers.reference import tempo
from verl_leaf.algorithm import grpo_advantages, tempo_advantages


def run(batch, **changes):
    inputs = {**vars(batch), **changes}
    names = ("responses", "rewards", "mask", "group", "lengths")
    return tempo_advantages(**{name: inputs[name] for name in names}).advantages


def test_the_worked_example():
    """Mean 0.575, standard deviation 0.4349329. Values: `5 6 7` 2.3 / 3, `5 6 7 8` 0.9, leaves their rewards.

    At token 2, `7` moves the value by 2.3 / 3 - 0.575 = 0.191667 and `3` by -0.575; at token 3, `8` by 0.9 - 2.3 / 3 =
    0.133333 and `4` by 0.5 - 2.3 / 3 = -0.266667; at token 4, `9` by 0.1 and `2` by -0.1.
    """
    groups = [
        {
            "responses": [[5, 6, 7, 8, 9], [5, 6, 7, 4, 9], [5, 6, 3, 8, 9], [5, 6, 7, 8, 2]],
            "rewards": [1.0, 0.5, 0.0, 0.8],
        },
        {"responses": [[5, 6], [5, 6]], "rewards": [0.5, 0.5]},
    ]
    batch = pack(groups)
    wanted = [
        [0.97716, 0.97716, 1.41784, 1.28372, 1.20708],
        [-0.17244, -0.17244, 0.26824, -0.78556, -0.17244],
        [-1.32204, -1.32204, -2.64408, -1.32204, -1.32204],
        [0.51732, 0.51732, 0.95800, 0.82388, 0.28740],
    ]
    found = run(batch)
    assert flat(found[batch.rows[0]].tolist()) == pytest.approx(flat(wanted), abs=2e-5)
    assert not found[batch.rows[1]].any()


@settings(max_examples=250, deadline=None)
@given(batches, seeds)
def test_agrees_with_the_definition(groups, seed):
    batch = pack(groups, seed=seed)
    found = run(batch)
    for rows, group in zip(batch.rows, groups, strict=True):
        wanted = tempo(group["responses"], group["rewards"])
        for row, policy, paid in zip(rows, group["policy"], wanted, strict=True):
            assert found[row, : len(paid)].tolist() == pytest.approx(
                [a * w for a, w in zip(paid, policy, strict=True)], abs=1e-8
            )
    assert not found[batch.mask == 0].any()


@settings(max_examples=40, deadline=None)
@given(batches)
def test_is_grpo_where_nothing_branches(groups):
    for group in groups:
        for name in ("responses", "surprisal", "policy"):
            group[name] = [group[name][0]] * len(group[name])
    batch = pack(groups)
    wanted = grpo_advantages(batch.rewards, batch.group)[:, None] * batch.mask
    torch.testing.assert_close(run(batch), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows, width", [(0, 0), (0, 5), (3, 0)])
def test_batches_without_rows_or_tokens(rows, width):
    empty = torch.zeros(rows, width)
    found = tempo_advantages(empty.long(), torch.zeros(rows), empty, torch.zeros(rows, dtype=torch.long))
    assert found.advantages.shape == (rows, width)


def test_dtypes_and_wrong_arguments():
    batch = pack([{"responses": [[1, 2], [1, 3]], "rewards": [1.0, 0.0]}])
    assert run(batch, rewards=batch.rewards.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="^mask must"):
        run(batch, mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="^rewards must"):
        run(batch, rewards=torch.zeros(2).long())
    with pytest.raises(ValueError, match="^responses must"):
        run(batch, responses=torch.zeros(2).long())
