"""The 240 groups of groups.jsonl and the worked example, number by number."""

import json
from itertools import groupby
from pathlib import Path

import pytest
import torch

from tests.helpers.batches import flat, pack, shape, unpack
from tests.helpers.reference import leaf
from verl_leaf.algorithm import build_prefix_tree, credit_spans, leaf_advantages, token_advantages

GROUPS = [json.loads(line) for line in (Path(__file__).parent / "groups.jsonl").read_text().strip().split("\n")]
SETTINGS = ("fork_budget", "min_prefix_tokens", "credit")


def setting(group):
    return tuple(group[name] for name in SETTINGS)


def assert_agrees(result, rows, group):
    found = unpack(result, rows, group["responses"])
    wanted = (group["boundaries"], group["spans"], group["advantages"])
    assert found[0] == wanted[0]
    assert shape(found) == shape(wanted)
    assert flat(found) == pytest.approx(flat(wanted), abs=1e-6, rel=0)


def test_there_are_240_groups():
    assert len(GROUPS) == 240


@pytest.mark.parametrize("number", range(240))
def test_one_group(number):
    group = GROUPS[number]
    batch = pack([group])
    result = leaf_advantages(
        batch.responses,
        batch.surprisal,
        batch.rewards,
        batch.mask,
        batch.group,
        **dict(zip(SETTINGS, setting(group), strict=True)),
    )
    assert_agrees(result, batch.rows[0], group)


def test_all_groups_of_a_setting_in_one_interleaved_batch():
    for settings, groups in groupby(sorted(GROUPS, key=setting), key=setting):
        groups = list(groups)
        batch = pack(groups, width=100)
        result = leaf_advantages(
            batch.responses,
            batch.surprisal,
            batch.rewards,
            batch.mask,
            batch.group,
            **dict(zip(SETTINGS, settings, strict=True)),
        )
        for rows, group in zip(batch.rows, groups, strict=True):
            assert_agrees(result, rows, group)
        assert not result.advantages[batch.mask == 0].any()


@pytest.mark.parametrize("number", range(240))
def test_the_reference_itself(number):
    group = GROUPS[number]
    found = leaf(group["responses"], group["surprisal"], group["rewards"], *setting(group))
    wanted = (group["boundaries"], group["spans"], group["advantages"])
    assert shape(found) == shape(wanted)
    assert flat(found) == pytest.approx(flat(wanted), abs=1e-9, rel=0)


def test_worked_example():
    responses = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 4, 9], [5, 6, 3, 8, 9], [5, 6, 7, 8, 2]])
    surprisal = torch.tensor(
        [[0.1, 0.2, 0.9, 1.5, 0.1], [0.1, 0.2, 0.9, 2.0, 0.2], [0.1, 0.2, 2.5, 0.3, 0.1], [0.1, 0.2, 0.9, 1.5, 1.2]]
    )
    rewards = torch.tensor([1.0, 0.5, 0.0, 0.8], dtype=torch.float64)
    mask = torch.ones(4, 5, dtype=torch.long)

    tree = build_prefix_tree(responses, surprisal, mask.sum(1), mask, torch.zeros(4, dtype=torch.long))
    assert tree.boundaries.tolist() == [[2, 4]]
    assert tree.boundary_row.tolist() == [[2, 3]]
    assert tree.node.tolist() == [[0, 0], [0, -1], [0, -1], [0, 0]]
    assert tree.size.tolist() == [[4, 2], [4, 0], [4, 0], [4, 2]]
    assert tree.depth.tolist() == [2, 1, 1, 2]

    spans = credit_spans(tree, rewards)
    assert spans.root_value.tolist() == pytest.approx([0.575])
    assert flat(spans.node_value.tolist()) == pytest.approx([0.575, 0.9, 0.575, 0, 0.575, 0, 0.575, 0.9])
    assert spans.valid.tolist() == [[True] * 3, [True, True, False], [True, True, False], [True] * 3]
    assert spans.start[spans.valid].tolist() == [0, 2, 4, 0, 2, 0, 2, 0, 2, 4]
    assert spans.end[spans.valid].tolist() == [2, 4, 5, 2, 5, 2, 5, 2, 4, 5]
    raw = [0, 0.4596, 0.525, 0, -0.15, 0, -1.15, 0, 0.4596, 0.125]
    normalised = [-0.0564, 0.9063, 1.0432, -0.0564, -0.3706, -0.0564, -2.4651, -0.0564, 0.9063, 0.2054]
    assert spans.raw[spans.valid].tolist() == pytest.approx(raw, abs=5e-5)
    assert spans.normalised[spans.valid].tolist() == pytest.approx(normalised, abs=5e-5)

    advantages = token_advantages(tree, spans, mask, dtype=torch.float64)
    wanted = [
        [-0.0564, -0.0564, 0.9063, 0.9063, 1.0432],
        [-0.0564, -0.0564, -0.3706, -0.3706, -0.3706],
        [-0.0564, -0.0564, -2.4651, -2.4651, -2.4651],
        [-0.0564, -0.0564, 0.9063, 0.9063, 0.2054],
    ]
    assert flat(advantages.tolist()) == pytest.approx(flat(wanted), abs=5e-5)
