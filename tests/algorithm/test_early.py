"""``early``: small numbers counted by hand, and its definition."""

import pytest
import torch
from hypothesis import given, settings

from tests.algorithm.test_prefix_baseline import BATCHES
from tests.algorithm.test_properties import batches, seeds
from tests.helpers.batches import pack
from tests.helpers.reference import kappa_and_early
from verl_leaf.algorithm import early_metrics, find_forks, pad_groups, pair_spread, shrinkage

FOUR = [[1, 1], [1, 2], [2, 1], [2, 2]]


def spread(groups, rewards):
    return pair_spread(find_forks(*pad_groups(groups)), torch.tensor(rewards, dtype=torch.float64))


def metrics(groups, rewards):
    return early_metrics(find_forks(*pad_groups(groups)), torch.tensor(rewards, dtype=torch.float64))


# Four pairs part at token 0, two at token 1.
@pytest.mark.parametrize(
    "rewards, early, kappa",
    [
        (
            [1, 1, 0, 0],
            1,
            7.5,
        ),  # the first token is all: T = 0.5, W = 0, n = 4 / 3; tau2 = T n / (n + 10), sigma2 = T - tau2
        ([1, 0, 1, 0], -1, float("inf")),  # the second is all: T = 0.5 / 2, W = 0.5
        ([1, 0, 0, 0], 0, float("inf")),  # T = 0.5 * 2 / 4, W = 0.5 / 2
    ],
)
def test_four_responses(rewards, early, kappa):
    assert metrics([FOUR], rewards) == {"early": pytest.approx(early, abs=1e-12), "early_pairs": pytest.approx(4 / 3)}
    assert 1 / shrinkage(spread([FOUR], rewards).sums()) == pytest.approx(1 / kappa, abs=1e-12)


def test_the_worked_example():
    """Row 2 parts first: squares of 1, 0.25 and 0.64 against 0.25, 0.04 and 0.09."""
    worked = [[5, 6, 7, 8, 9], [5, 6, 7, 4, 9], [5, 6, 3, 8, 9], [5, 6, 7, 8, 2]]
    assert metrics([worked], [1.0, 0.5, 0.0, 0.8]) == {"early": pytest.approx(1 - 0.38 / 1.89), "early_pairs": 1.5}


def test_groups_add_up_and_those_without_a_difference_count_nothing():
    groups, rewards = [FOUR, FOUR, [[1]], FOUR], [1, 1, 0, 0, 3, 3, 3, 3, 5, 1, 0, 1, 0]
    # n T = 4 / 3 * (0.5 + 0.25), n W = 4 / 3 * (0 + 0.5)
    found = metrics(groups, rewards)
    assert found == {"early": pytest.approx(1 - 0.5 / 0.75), "early_pairs": pytest.approx(8 / 3)}
    assert all(type(value) is float for value in found.values())
    own = spread(groups, rewards)
    assert own.first.tolist() == pytest.approx([2 / 3, 0, 0, 1 / 3])
    assert own.later.tolist() == pytest.approx([0, 0, 0, 2 / 3])
    assert own.pairs.tolist() == pytest.approx([4 / 3, 0, 0, 4 / 3])


@pytest.mark.parametrize("K", [4, 8, 32])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.92])
def test_it_estimates_the_share_of_the_variance_that_the_first_choice_decides(K, share):
    """Every second prompt has nearly always the same first token and rewards a third as wide: the share is the same."""
    draw = torch.Generator().manual_seed(K)
    G = 60_000 // K
    peaked = torch.arange(G)[:, None] % 2 == 0
    branches = torch.where(peaked, torch.tensor([0.85, 0.05, 0.05, 0.05]), torch.full((4,), 0.25))
    branch = torch.multinomial(branches, K, replacement=True, generator=draw)
    between = share**0.5 * torch.randn(G, 4, generator=draw).gather(1, branch)
    rewards = torch.where(peaked, 0.3, 1.0) * (between + (1 - share) ** 0.5 * torch.randn(G, K, generator=draw))
    responses = torch.stack([branch, torch.arange(G * K).view(G, K)], 2).view(-1, 2)
    group = torch.arange(G).repeat_interleave(K)
    forks = find_forks(responses, torch.full((G * K,), 2), group)
    assert early_metrics(forks, rewards.flatten())["early"] == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    "responses, rewards, pairs",
    [
        ([[1], [2], [3]], [1, 0, 0], 0),  # all part at once
        ([[1, 2], [1, 2], [1, 2]], [1, 0, 0], 0),  # none parts
        ([[1], [1], [1, 2]], [1, 0, 0], 0),  # all share one token: the first two end where the third continues
        ([[1, 1], [1, 2], [2, 1]], [1, 1, 1], 0),  # nothing differs
        ([[1, 1, 1], [1, 1, 2], [1, 2, 3]], [1, 0, 0], 2 / 3),  # with one later pair and two that part first
    ],
)
def test_where_there_is_nothing_to_compare(responses, rewards, pairs):
    # The last: the pairs of row 2 have h = 0.5 and 0, the later pair 0.5: 1 - 0.5 / 0.25.
    early = -1 if pairs else 0
    assert metrics([responses], rewards) == {
        "early": pytest.approx(early, abs=1e-12),
        "early_pairs": pytest.approx(pairs),
    }
    assert metrics([], []) == {"early": 0.0, "early_pairs": 0.0}


@settings(max_examples=200, deadline=None)
@given(batches, seeds)
def test_agrees_with_the_definition(groups, seed):
    batch = pack(groups, seed=seed)
    _, early, pairs = kappa_and_early([(group["responses"], group["rewards"]) for group in groups])
    found = early_metrics(find_forks(batch.responses, batch.lengths, batch.group), batch.rewards)
    assert found == {"early": pytest.approx(early, abs=1e-9), "early_pairs": pytest.approx(pairs)}


def test_early_of_the_120_batches():
    for wanted in BATCHES:
        groups = [group["responses"] for group in wanted["groups"]]
        rewards = [reward for group in wanted["groups"] for reward in group["rewards"]]
        assert metrics(groups, rewards)["early"] == pytest.approx(wanted["early"], abs=1e-9)


def test_wrong_rewards_are_named():
    forks = find_forks(*pad_groups([FOUR]))
    for rewards in (torch.zeros(3), torch.zeros(4).long()):
        with pytest.raises(ValueError, match="^rewards must"):
            early_metrics(forks, rewards)
