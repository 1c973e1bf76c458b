"""The fast code against the plain restatement, and what must hold whatever the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.batches import flat, pack, shape, unpack
from tests.helpers.reference import leaf
from verl_leaf.algorithm import (
    CREDITS,
    build_prefix_tree,
    credit_spans,
    grpo_floored_advantages,
    leaf_advantages,
    token_advantages,
)

# Few distinct tokens, surprisals and rewards, so that prefixes are shared and ties are common.
SURPRISAL = st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.25, float("inf")])
REWARD = st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0, -2.0])
SETTING = st.fixed_dictionaries(
    {
        "fork_budget": st.integers(0, 5),
        "min_prefix_tokens": st.integers(0, 5),
        "credit": st.sampled_from(CREDITS),
    }
)


@st.composite
def response_groups(draw, tools=True):
    """A prompt's responses: K of 1 .. 6, lengths of 0 .. 12, some equal, some with tokens the policy did not write."""
    trunk = draw(st.lists(st.integers(0, 1), min_size=12, max_size=12))
    group = {"responses": [], "surprisal": [], "rewards": [], "policy": []}
    for _ in range(draw(st.integers(1, 6))):
        shared, length = draw(st.integers(0, 12)), draw(st.integers(0, 12))
        tail = draw(st.lists(st.integers(0, 2), min_size=12, max_size=12))
        group["responses"].append((trunk[:shared] + tail)[:length])
        group["surprisal"].append(draw(st.lists(SURPRISAL, min_size=length, max_size=length)))
        written = st.sampled_from([1, 1, 1, 0]) if tools else st.just(1)
        group["policy"].append(draw(st.lists(written, min_size=length, max_size=length)))
        group["rewards"].append(draw(REWARD))
    return group


batches = st.lists(response_groups(), min_size=1, max_size=4)
plain_batches = st.lists(response_groups(tools=False), min_size=1, max_size=4)
seeds = st.integers(0, 2**16)


def run(batch, setting, **changes):
    inputs = {**vars(batch), **changes}
    names = ("responses", "surprisal", "rewards", "mask", "group")
    return leaf_advantages(*[inputs[name] for name in names], lengths=inputs["lengths"], **setting)


@settings(max_examples=250, deadline=None)
@given(batches, SETTING, seeds)
def test_agrees_with_the_definition(groups, setting, seed):
    batch = pack(groups, seed=seed)
    result = run(batch, setting)
    for rows, group in zip(batch.rows, groups, strict=True):
        found = unpack(result, rows, group["responses"])
        wanted = leaf(group["responses"], group["surprisal"], group["rewards"], **setting, policy=group["policy"])
        assert found[0] == wanted[0]
        assert shape(found) == shape(wanted)
        assert flat(found) == pytest.approx(flat(wanted), abs=1e-8, rel=0)
    assert not result.advantages[batch.mask == 0].any()


@settings(max_examples=60, deadline=None)
@given(batches, SETTING, seeds, seeds)
def test_row_order_between_groups_changes_nothing(groups, setting, seed, other):
    one, two = pack(groups, seed=seed), pack(groups, seed=other)
    a, b = run(one, setting).advantages, run(two, setting).advantages
    torch.testing.assert_close(a[flat(one.rows)], b[flat(two.rows)], rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(batches, SETTING, st.sampled_from([0.5, 3.0, 1000.0]), st.sampled_from([-5.0, 0.0, 100.0]))
def test_scaling_and_shifting_a_groups_rewards_changes_nothing(groups, setting, scale, shift):
    batch = pack(groups)
    result = run(batch, setting)
    moved = run(batch, setting, rewards=torch.where(batch.group == 0, batch.rewards * scale + shift, batch.rewards))
    torch.testing.assert_close(result.advantages, moved.advantages, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(batches, SETTING, seeds)
def test_padding_changes_nothing(groups, setting, seed):
    narrow, wide = pack(groups, seed=seed), pack(groups, seed=seed, width=20)
    a, b = run(narrow, setting).advantages, run(wide, setting).advantages
    torch.testing.assert_close(a, b[:, : a.shape[1]])
    assert not b[:, a.shape[1] :].any()


@settings(max_examples=60, deadline=None)
@given(plain_batches, SETTING)
def test_one_value_a_span(groups, setting):
    batch = pack(groups)
    result = run(batch, setting)
    tree, spans = result.tree, result.spans
    for i, length in enumerate(batch.lengths.tolist()):
        covered = []
        for s in spans.valid[i].nonzero()[:, 0].tolist():
            span = slice(int(spans.start[i, s]), min(int(spans.end[i, s]), length))
            assert (result.advantages[i, span] == spans.normalised[i, s]).all()
            covered += range(span.start, max(span.start, span.stop))
        assert covered == list(range(length))
        assert (tree.node[i, : int(tree.depth[i])] >= 0).all()


def z_scores(rewards, group):
    """z-score of the rewards of each group, floored at 1e-6, with plain loops."""
    result = torch.zeros_like(rewards)
    for g in group.unique():
        of_group = rewards[group == g]
        if len(of_group) > 1:
            result[group == g] = (of_group - of_group.mean()) / of_group.std().clamp(min=1e-6)
    return result


@settings(max_examples=60, deadline=None)
@given(plain_batches, st.sampled_from(CREDITS))
def test_no_budget_is_the_z_score_of_the_reward(groups, credit):
    batch = pack([keep_non_empty(group) for group in groups])
    result = run(batch, {"fork_budget": 0, "credit": credit})
    wanted = z_scores(batch.rewards, batch.group)[:, None] * batch.mask
    torch.testing.assert_close(result.advantages, wanted, rtol=0, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(plain_batches, SETTING)
def test_no_shared_prefix_is_the_z_score_of_the_reward(groups, setting):
    groups = [keep_non_empty(group) for group in groups]
    for group in groups:
        group["responses"] = [[10 + k, *y[1:]] for k, y in enumerate(group["responses"])]
    batch = pack(groups)
    result = run(batch, setting)
    assert (result.tree.node == -1).all()
    torch.testing.assert_close(result.advantages, z_scores(batch.rewards, batch.group)[:, None] * batch.mask)


def keep_non_empty(group):
    """The group with every empty response made one token long: an empty one has no span to be scored."""
    fill = {"responses": [0], "surprisal": [0.5], "policy": [1]}
    return {name: [x or fill[name] for x in value] if name in fill else value for name, value in group.items()}


@settings(max_examples=60, deadline=None)
@given(batches, st.sampled_from([1 / 3, 1e-6, 2.0]))
def test_grpo_floored(groups, floor):
    batch = pack(groups)
    found = grpo_floored_advantages(batch.rewards, batch.group, floor=floor)
    for g in batch.group.unique():
        r = batch.rewards[batch.group == g]
        std = float(r.std()) if len(r) > 1 else 0.0
        torch.testing.assert_close(found[batch.group == g], (r - r.mean()) / max(std, floor), rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_outside_float64_inside(dtype):
    batch = pack([{"responses": [[1, 2], [1, 3]], "surprisal": [[0.1, 2.0], [0.1, 1.0]], "rewards": [1, 0]}])
    half = run(batch, {}, surprisal=batch.surprisal.to(dtype), rewards=batch.rewards.to(dtype))
    assert half.advantages.dtype == dtype
    assert half.spans.raw.dtype == half.spans.normalised.dtype == torch.float64
    torch.testing.assert_close(half.advantages, run(batch, {}).advantages.to(dtype))
    assert grpo_floored_advantages(batch.rewards.to(dtype), batch.group).dtype == dtype


@pytest.mark.parametrize("integers", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("mask", [torch.bool, torch.float32, torch.int32])
def test_any_integer_and_mask_dtype(integers, mask):
    batch = pack([{"responses": [[1, 2, 3], [1, 3]], "surprisal": [[0.1, 2.0, 1.0], [0.1, 1.0]], "rewards": [1, 0]}])
    found = run(batch, {}, responses=batch.responses.to(integers), mask=batch.mask.to(mask), group=batch.group.int())
    assert found.advantages.tolist() == run(batch, {}).advantages.tolist()


def test_lengths_default_to_the_last_token_in_the_mask():
    batch = pack(
        [{"responses": [[1, 2, 3], [1, 3], []], "surprisal": [[0, 1, 2.0], [1.0, 1], []], "rewards": [1, 0, 0]}]
    )
    found = leaf_advantages(batch.responses, batch.surprisal, batch.rewards, batch.mask, batch.group)
    assert found.tree.lengths.tolist() == batch.lengths.tolist()


def test_a_response_may_end_with_tokens_of_a_tool():
    """They lengthen the response (T_min, prefixes), carry no advantage, and are never a boundary."""
    responses = torch.tensor([[1, 2, 3, 9, 9, 9], [1, 2, 4, 9, 9, 9]])
    surprisal = torch.tensor([[0, 1, 2, 9, 9, 9.0], [0, 1, 3, 9, 9, 9.0]])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]] * 2)
    rewards, group = torch.tensor([1.0, 0.0]), torch.zeros(2).long()
    full = torch.tensor([6, 6])
    result = leaf_advantages(responses, surprisal, rewards, mask, group, lengths=full, fork_budget=1)
    assert result.tree.boundaries.tolist() == [[2]]
    assert result.spans.end[result.spans.valid].tolist() == [2, 6, 2, 6]
    assert (result.advantages[:, 3:] == 0).all() and (result.advantages[:, 2] != 0).all()


def test_large_tokens_and_long_responses():
    """Token ids of any size, and rows that differ in one token only."""
    torch.manual_seed(0)
    row = torch.randint(2**62, (1, 3000))
    responses = row.repeat(6, 1)
    for i, (t, bit) in enumerate([(0, 0), (1000, 62), (2500, 40), (2999, 1)]):
        responses[i, t] ^= 1 << bit
    surprisal = torch.rand(6, 3000)
    mask = torch.ones(6, 3000)
    tree = build_prefix_tree(responses, surprisal, mask.sum(1).long(), mask, torch.zeros(6).long(), fork_budget=40)
    boundaries = [p for p in tree.boundaries[0].tolist() if p < tree.num_tokens]
    assert len(set(boundaries)) == len(boundaries) >= 20  # the distance leaves no room for all 40
    for b, p in enumerate(boundaries):
        for i in range(6):
            mates = [j for j in range(6) if responses[i, :p].tolist() == responses[j, :p].tolist()]
            assert (int(tree.node[i, b]), int(tree.size[i, b])) == ((mates[0], len(mates)) if mates[1:] else (-1, 0))


@pytest.mark.parametrize("rows, width", [(0, 0), (0, 5), (3, 0)])
def test_batches_without_rows_or_tokens(rows, width):
    empty = torch.zeros(rows, width)
    group = torch.zeros(rows, dtype=torch.long)
    result = leaf_advantages(empty.long(), empty, torch.zeros(rows), empty, group)
    assert result.advantages.shape == (rows, width)
    assert not result.spans.valid.any()


GOOD = {
    "responses": torch.zeros(2, 3, dtype=torch.long),
    "surprisal": torch.zeros(2, 3),
    "lengths": torch.tensor([3, 3]),
    "mask": torch.ones(2, 3),
    "group": torch.tensor([0, 0]),
}


@pytest.mark.parametrize(
    "name, value",
    [
        ("responses", torch.zeros(6).long()),
        ("responses", torch.zeros(2, 3)),
        ("surprisal", torch.zeros(2, 4)),
        ("surprisal", torch.zeros(2, 3).long()),
        ("lengths", torch.tensor([3])),
        ("lengths", torch.tensor([3.0, 3.0])),
        ("lengths", torch.tensor([3, 4])),
        ("lengths", torch.tensor([-1, 3])),
        ("mask", torch.ones(3, 2)),
        ("group", torch.tensor([[0, 0]])),
        ("group", torch.tensor([0.0, 0.0])),
        ("group", torch.tensor([-1, 0])),
        ("fork_budget", -1),
        ("fork_budget", 1.5),
        ("fork_budget", True),
        ("min_prefix_tokens", -1),
        ("min_prefix_tokens", "1"),
    ],
)
def test_wrong_arguments_are_named(name, value):
    build_prefix_tree(**GOOD)
    with pytest.raises(ValueError, match=f"^{name} must"):
        build_prefix_tree(**{**GOOD, name: value})


def test_wrong_rewards_credit_and_masks_are_named():
    tree = build_prefix_tree(**GOOD)
    rewards = torch.zeros(2)
    with pytest.raises(ValueError, match="^rewards must"):
        credit_spans(tree, torch.zeros(3))
    with pytest.raises(ValueError, match="^rewards must"):
        credit_spans(tree, torch.zeros(2).long())
    with pytest.raises(ValueError, match="^credit must be one of both, global, local, got 'neither'"):
        credit_spans(tree, rewards, credit="neither")
    with pytest.raises(ValueError, match="^mask must"):
        token_advantages(tree, credit_spans(tree, rewards), torch.ones(2, 4), dtype=torch.float32)
    with pytest.raises(ValueError, match="^mask must"):
        leaf_advantages(GOOD["responses"], GOOD["surprisal"], rewards, torch.ones(6), GOOD["group"])
    for arguments, name in [
        ((torch.zeros(2, 1), GOOD["group"]), "rewards"),
        ((rewards, torch.zeros(3).long()), "group"),
        ((rewards, torch.tensor([-1, 0])), "group"),
    ]:
        with pytest.raises(ValueError, match=f"^{name} must"):
            grpo_floored_advantages(*arguments)
    with pytest.raises(ValueError, match="^floor must"):
        grpo_floored_advantages(rewards, GOOD["group"], floor=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_stays_on_the_gpu():
    batch = pack([{"responses": [[1, 2, 3], [1, 3]], "surprisal": [[0.1, 2.0, 1.0], [0.1, 1.0]], "rewards": [1, 0]}])
    moved = {name: x.cuda() for name, x in vars(batch).items() if isinstance(x, torch.Tensor)}
    result = run(batch, {}, **moved)
    assert result.advantages.is_cuda and result.tree.node.is_cuda and result.spans.raw.is_cuda
    torch.testing.assert_close(result.advantages.cpu(), run(batch, {}).advantages)


def test_no_boundary_lies_before_the_first_token():
    """m = 0 means 1: a cut at 0 would leave a span without tokens. The first tokens are the most surprising here."""
    surprisal = torch.tensor([[9.0, 0.1, 0.5], [9.0, 0.1, 0.2], [9.0, 0.3, 0.1]])
    responses, group = torch.tensor([[4, 5, 6], [4, 5, 7], [4, 8, 6]]), torch.zeros(3, dtype=torch.long)
    given = (responses, surprisal, torch.tensor([1.0, 0.0, 0.5]), torch.ones(3, 3), group)
    from_0, from_1 = (leaf_advantages(*given, min_prefix_tokens=m) for m in (0, 1))
    assert from_0.tree.boundaries.min() >= 1
    assert torch.equal(from_0.advantages, from_1.advantages)
