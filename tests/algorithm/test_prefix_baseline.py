"""GRPO with the shrunk prefix baseline: the 120 batches, its definition, and what it is made for: no bias."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.algorithm.test_properties import batches, seeds
from tests.helpers.batches import flat, pack, shape
from tests.helpers.reference import alike, grpo_prefix, kappa_and_early, mean
from verl_leaf.algorithm import grpo_advantages, grpo_prefix_advantages, leaf_advantages

BATCHES = [
    json.loads(line) for line in (Path(__file__).parent / "prefix_baseline.jsonl").read_text().strip().split("\n")
]
KAPPA = st.sampled_from([0.0, 0.5, 3, 20.0, math.inf, "auto"])


def run(batch, kappa, **changes):
    inputs = {**vars(batch), **changes}
    names = ("responses", "rewards", "mask", "group", "lengths")
    return grpo_prefix_advantages(**{name: inputs[name] for name in names}, kappa=kappa)


def per_token(result, rows, responses):
    """``baseline`` and ``advantages`` of the group whose rows these are, as lists of a number per token."""
    last = (result.start[rows, :, None] <= torch.arange(result.advantages.shape[1])).sum(1) - 1
    baseline = result.baseline[rows].gather(1, last)
    return [[x[i, : len(y)].tolist() for i, y in enumerate(responses)] for x in (baseline, result.advantages[rows])]


def test_there_are_120_batches():
    assert len(BATCHES) == 120


@pytest.mark.parametrize("number", range(120))
def test_one_batch(number):
    wanted = BATCHES[number]
    kappa = wanted["kappa"] if wanted["kappa"] == "auto" else float(wanted["kappa"])
    batch = pack(wanted["groups"])
    result = run(batch, kappa)
    assert result.kappa == pytest.approx(float(wanted["kappa_used"]), rel=1e-9)
    assert run(batch, "auto").kappa == pytest.approx(float(wanted["kappa_of_batch"]), rel=1e-9)
    for rows, group in zip(batch.rows, wanted["groups"], strict=True):
        found = per_token(result, rows, group["responses"])
        assert shape(found) == shape([group["baseline"], group["advantages"]])
        assert flat(found) == pytest.approx(flat([group["baseline"], group["advantages"]]), abs=1e-9, rel=0)


@settings(max_examples=250, deadline=None)
@given(batches, KAPPA, seeds)
def test_agrees_with_the_definition(groups, kappa, seed):
    batch = pack(groups, seed=seed)
    result = run(batch, kappa)
    own, _, _ = kappa_and_early([(group["responses"], group["rewards"]) for group in groups])
    # Sums in another order may make of tau2 = 0 a number near 0, and so of infinity a large number.
    assert 1 / (1 + result.kappa) == pytest.approx(1 / (1 + (own if kappa == "auto" else kappa)), abs=1e-9)
    for rows, group in zip(batch.rows, groups, strict=True):
        baseline, advantages = grpo_prefix(group["responses"], group["rewards"], own if kappa == "auto" else kappa)
        paid = [[a * w for a, w in zip(*both, strict=True)] for both in zip(advantages, group["policy"], strict=True)]
        assert flat(per_token(result, rows, group["responses"])) == pytest.approx(flat([baseline, paid]), abs=1e-8)
    assert not result.advantages[batch.mask == 0].any()


@settings(max_examples=60, deadline=None)
@given(batches, seeds)
def test_kappa_infinite_is_grpo_times_k_over_k_less_one(groups, seed):
    batch = pack(groups, seed=seed)
    K = batch.group.bincount()[batch.group]
    grpo = torch.where(K > 1, grpo_advantages(batch.rewards, batch.group) * K / (K - 1), 0)
    torch.testing.assert_close(run(batch, math.inf).advantages, grpo[:, None] * batch.mask, rtol=0, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(batches, seeds)
def test_kappa_0_is_leave_one_out_in_each_node(groups, seed):
    batch = pack(groups, seed=seed)
    result = run(batch, 0)
    for rows, group in zip(batch.rows, groups, strict=True):
        responses, rewards = group["responses"], group["rewards"]
        for i, mine in enumerate(per_token(result, rows, responses)[0]):
            wanted = rewards[i]
            for t, found in enumerate(mine):
                others = alike(responses, i, t)
                wanted = mean([rewards[k] for k in others]) if others else wanted  # alone: the last one stays
                assert found == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(batches, KAPPA, seeds, st.randoms(use_true_random=False))
def test_row_order_changes_nothing(groups, kappa, seed, random):
    batch = pack(groups, seed=seed)
    order = list(range(len(batch.group)))
    random.shuffle(order)
    moved = {name: getattr(batch, name)[order] for name in ("responses", "rewards", "mask", "group", "lengths")}
    found, wanted = run(batch, kappa, **moved).advantages, run(batch, kappa).advantages[order]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(batches, KAPPA, st.sampled_from([0.5, 3.0, 1000.0]), st.sampled_from([-5.0, 0.0, 1e6]))
def test_scaling_all_rewards_and_shifting_those_of_a_group_changes_nothing(groups, kappa, scale, shift):
    batch = pack(groups)
    rewards = batch.rewards * scale + shift * (batch.group == 0)
    found, wanted = run(batch, kappa, rewards=rewards).advantages, run(batch, kappa).advantages
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)  # the 1e-6 beside a std of 0.07 is 1.4e-5 of it


# A policy that can be enumerated: P(response), lengths of 1 to 3. Gradients are with respect to the logits of every node.
POLICY = {(): (0.5, 0.42, 0.08), (0,): (0.6, 0.4), (0, 0): (0.3, 0.7), (1,): (0.25, 0.75)}
TREE = {(0, 0, 0): 1.0, (0, 0, 1): 0.2, (0, 1): 0.7, (1, 0): 0.0, (1, 1): 0.9, (2,): 0.4}


def score(response):
    """``[T_i, logits]``, the gradient of the log-probability of each token."""
    rows = []
    for t, token in enumerate(response):
        row = [
            [float(k == token) - p if node == response[:t] else 0.0 for k, p in enumerate(choices)]
            for node, choices in POLICY.items()
        ]
        rows.append(flat(row))
    return torch.tensor(rows, dtype=torch.float64)


def probability(response):
    return math.prod(POLICY[response[:t]][token] for t, token in enumerate(response))


def policy_gradient():
    return sum(probability(y) * r * score(y).sum(0) for y, r in TREE.items())


def expected_gradient(advantages_of, chance=probability, per_token=False):
    """The expectation over all groups of 3 of the gradient summed over responses, and over tokens or averaged over them."""
    groups = list(itertools.product(TREE, repeat=3))
    batch = pack(
        [{"responses": [list(y) for y in group], "rewards": [TREE[y] for y in group]} for group in groups], width=3
    )
    advantages = advantages_of(batch)
    total = 0
    for rows, group in zip(batch.rows, groups, strict=True):
        for row, y in zip(rows, group, strict=True):
            weight = math.prod(map(chance, group)) / (len(y) if per_token else 1)
            total = total + weight * (advantages[row, : len(y), None] * score(y)).sum(0)
    return total


def undivided(kappa):
    def advantages_of(batch):
        result = run(batch, kappa)
        last = (result.start[:, :, None] <= torch.arange(3)).sum(1) - 1
        return batch.rewards[:, None] - result.baseline.gather(1, last)

    return advantages_of


@pytest.mark.parametrize("kappa", [0, 0.5, 2.0, 10.0, math.inf])
def test_the_gradient_is_unbiased(kappa):
    assert sum(map(probability, TREE)) == pytest.approx(1)
    error = expected_gradient(undivided(kappa)) - 3 * policy_gradient()
    assert error.abs().max() < 1e-12


def grpo_undivided(batch):
    mean_of = torch.zeros(int(batch.group.max()) + 1, dtype=batch.rewards.dtype).index_add(
        0, batch.group, batch.rewards
    )
    return (batch.rewards - mean_of[batch.group] / 3)[:, None].expand(-1, 3) * 3 / 2  # K / (K - 1)


def nucleus(response, top_p=0.9):
    """The probability of a response if each token is drawn from the fewest that together have ``top_p``."""
    total = 1.0
    for t, token in enumerate(response):
        choices = sorted(POLICY[response[:t]], reverse=True)
        kept = [p for n, p in enumerate(choices) if sum(choices[:n]) < top_p]
        own = POLICY[response[:t]][token]
        total *= own / sum(kept) if own in kept else 0.0
    return total


@pytest.mark.parametrize("advantages_of", [undivided(0), undivided(2.0), grpo_undivided], ids=["0", "2", "grpo"])
@pytest.mark.parametrize(
    "changes, error, cosine",
    [
        ({}, 0, 1),
        ({"per_token": True}, 0.565, 0.973),  # verl's loss_agg_mode seq-mean-token-mean
        ({"chance": nucleus}, 0.16, 0.991),
    ],
    ids=["token-sum", "seq-mean-token-mean", "top-p"],
)
def test_what_a_mean_over_tokens_and_top_p_do_to_the_gradient(advantages_of, changes, error, cosine):
    """The figures of the README: without a bias of the baseline, the loss and the sampling bring one."""
    found, wanted = expected_gradient(advantages_of, **changes), 3 * policy_gradient()
    assert (found - wanted).norm() / wanted.norm() == pytest.approx(error, abs=0.005)
    assert torch.cosine_similarity(found, wanted, dim=0) == pytest.approx(cosine, abs=0.001)


def leaf_undivided(batch):
    surprisal = torch.zeros(batch.responses.shape)
    for row, length in enumerate(batch.lengths.tolist()):
        y = tuple(batch.responses[row, :length].tolist())
        surprisal[row, :length] = torch.tensor([-math.log(POLICY[y[:t]][y[t]]) for t in range(length)])
    spans = leaf_advantages(batch.responses, surprisal, batch.rewards, batch.mask, batch.group).spans
    start = torch.where(spans.valid, spans.start, 3)
    last = (start[:, :, None] <= torch.arange(3)).sum(1) - 1
    return spans.raw.gather(1, last)


def seeing_its_own_reward(batch):
    """The mean reward of everything that grew out of the prefix, the response's own included, as the baseline."""
    advantages = torch.zeros(batch.responses.shape, dtype=torch.float64)
    for rows in batch.rows:
        responses = [batch.responses[i, : batch.lengths[i]].tolist() for i in rows]
        for i, y in enumerate(responses):
            for t in range(len(y)):
                known = [float(batch.rewards[rows[k]]) for k in [i, *alike(responses, i, t)]]
                advantages[rows[i], t] = batch.rewards[rows[i]] - mean(known)
    return advantages


@pytest.mark.parametrize("advantages_of", [leaf_undivided, seeing_its_own_reward])
def test_others_are_biased_at_any_scale(advantages_of):
    found, wanted = expected_gradient(advantages_of), policy_gradient()
    scale = (found @ wanted) / (wanted @ wanted)
    assert (found - scale * wanted).norm() > 1e-2 * found.norm()


def test_equal_rewards_and_the_only_response_of_a_group_teach_nothing():
    groups = [
        {"responses": [[1, 2], [1, 3], [4]], "rewards": [0.1, 0.1, 0.1]},
        {"responses": [[1, 2, 3]], "rewards": [0.7]},
    ]
    result = run(pack(groups), "auto")
    assert not result.advantages.any()
    assert result.kappa == math.inf


@pytest.mark.parametrize("rows, width", [(0, 0), (0, 5), (3, 0)])
def test_batches_without_rows_or_tokens(rows, width):
    empty = torch.zeros(rows, width)
    group = torch.zeros(rows, dtype=torch.long)
    assert grpo_prefix_advantages(empty.long(), torch.zeros(rows), empty, group).advantages.shape == (rows, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_outside_float64_inside(dtype):
    batch = pack([{"responses": [[1, 2], [1, 3], [4]], "rewards": [1.0, 0.0, 0.5]}])
    found = run(batch, 1, rewards=batch.rewards.to(dtype))
    assert found.advantages.dtype == dtype and found.baseline.dtype == torch.float64
    assert found.advantages.tolist() == run(batch, 1).advantages.to(dtype).tolist()


@pytest.mark.parametrize("kappa", [-1, math.nan, True, "none", None])
def test_a_wrong_kappa_is_named(kappa):
    with pytest.raises(ValueError, match="^kappa must be auto or a number of 0 or more, got "):
        run(pack([{"responses": [[1]], "rewards": [1.0]}]), kappa)
