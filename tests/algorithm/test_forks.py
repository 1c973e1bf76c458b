"""Forks of responses: a tree counted by hand, and every pair's common prefix."""

import pytest
import torch
from hypothesis import given, settings

from tests.algorithm.test_properties import batches, seeds
from tests.helpers.batches import pack
from tests.helpers.reference import common_prefix
from verl_leaf.algorithm import find_forks, pad_groups


def test_a_tree_counted_by_hand():
    """Two groups of one batch, interleaved; 9 lies past the end of a response.

    Group 0 parts at 1 (6 against 7); after `5 6` at 2, where row 3 has ended and rows 0 and 4 are the same.
    Group 1 never parts.
    """
    responses = torch.tensor([[5, 6, 1], [2, 9, 9], [5, 7, 9], [5, 6, 9], [5, 6, 1], [2, 9, 9]])
    forks = find_forks(responses, torch.tensor([3, 1, 2, 2, 3, 1]), torch.tensor([0, 1, 0, 0, 0, 1]))
    assert forks.position.tolist() == [[1, 2, 3], [3, 3, 3], [1, 3, 3], [1, 2, 3], [1, 2, 3], [3, 3, 3]]
    assert forks.node.tolist() == [[0, 0, 0], [1, 1, 1], [0, 2, 2], [0, 0, 3], [0, 0, 0], [1, 1, 1]]
    assert forks.size.tolist() == [[4, 3, 2], [2, 2, 2], [4, 1, 1], [4, 3, 1], [4, 3, 2], [2, 2, 2]]
    assert forks.node_sum(torch.tensor([1.0, 0, 2, 4, 8, 0])).tolist() == [
        [15, 13, 9],
        [0, 0, 0],
        [15, 2, 2],
        [15, 13, 4],
        [15, 13, 9],
        [0, 0, 0],
    ]


@settings(max_examples=200, deadline=None)
@given(batches, seeds)
def test_a_node_is_who_shares_the_prefix(groups, seed):
    batch = pack(groups, seed=seed)
    forks = find_forks(batch.responses, batch.lengths, batch.group)
    T = forks.num_tokens
    for rows, group in zip(batch.rows, groups, strict=True):
        responses = group["responses"]
        for i, y in zip(rows, responses, strict=True):
            shared = [common_prefix(y, other) if y != other else T for other in responses]
            on_path = [p for p in forks.position[i].tolist() if p < T]
            assert on_path == sorted(set(shared) - {T})
            for depth, least in enumerate([0, *(p + 1 for p in on_path)]):
                members = [k for k, p in zip(rows, shared, strict=True) if p >= least]
                assert forks.node[rows, depth].eq(forks.node[i, depth]).nonzero()[:, 0].tolist() == [
                    rows.index(k) for k in members
                ]
                assert int(forks.node[i, depth]) == min(members)
                assert int(forks.size[i, depth]) == len(members)


def test_lists_of_tokens_are_padded():
    responses, lengths, group = pad_groups([[[1, 2], []], [], [[3, 4, 5]]])
    assert responses.tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]
    assert lengths.tolist() == [2, 0, 3]
    assert group.tolist() == [0, 0, 2]
    assert [len(x) for x in pad_groups([])] == [0, 0, 0]
    assert find_forks(*pad_groups([])).node.shape == (0, 1)


def test_tokens_of_any_size_and_dtype():
    large = torch.tensor([[2**62, 1], [2**62 + 1, 1]])
    lengths, group = torch.tensor([2, 2]), torch.tensor([0, 0])
    assert find_forks(large, lengths, group).position.tolist() == [[0, 2], [0, 2]]
    small = torch.tensor([[1, 255], [1, 0]], dtype=torch.uint8)
    assert find_forks(small, lengths.int(), group.short()).position.tolist() == [[1, 2], [1, 2]]


@settings(max_examples=40, deadline=None)
@given(batches)
def test_small_blocks_change_nothing(groups):
    batch = pack(groups)
    wanted = find_forks(batch.responses, batch.lengths, batch.group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "verl_leaf.algorithm.forks.row_blocks",
            lambda N, T, device: (slice(i, min(i + 2, N)) for i in range(0, N, 2)),
        )
        found = find_forks(batch.responses, batch.lengths, batch.group)
    assert found.node.tolist() == wanted.node.tolist() and found.position.tolist() == wanted.position.tolist()


@pytest.mark.parametrize(
    "name, value",
    [
        ("responses", torch.zeros(2, 3)),
        ("responses", torch.zeros(6).long()),
        ("lengths", torch.tensor([3, 4])),
        ("lengths", torch.tensor([3.0, 3.0])),
        ("group", torch.tensor([0, -1])),
        ("group", torch.tensor([0])),
    ],
)
def test_wrong_arguments_are_named(name, value):
    good = {"responses": torch.zeros(2, 3).long(), "lengths": torch.tensor([3, 3]), "group": torch.tensor([0, 0])}
    find_forks(**good)
    with pytest.raises(ValueError, match=f"^{name} must"):
        find_forks(**{**good, name: value})
