"""Responses to one prompt as one row: a tree of tokens in which every common beginning stands once.

A token sees itself and the tokens before it in its own response, in the prompt and nowhere else, and its position is the
one that it has there. So the row's forward pass gives each token what the response's own pass would.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Packed:
    """Sequences as trees, a row a prompt, padded on the right. All tensors are on the CPU.

    Attributes:
        ids: tokens, int64 ``[rows, width]``.
        positions: position of each token in its own sequences, int64 ``[rows, width]``.
        mask: whether a token (second axis) sees another (third), bool ``[rows, width, width]``; padding sees itself.
        first: for each row, the index of a sequence of it.
        answers: where the log-probability of each response token goes in the sequences laid end to end: int64 ``[answers]``,
            the place of the token before it.
        seen_from: index into the flattened rows of the token before it, int64 ``[answers]``.
        tokens: what it is, int64 ``[answers]``.
        column: the first column whose logits are needed.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    first: list[int]
    answers: torch.Tensor
    seen_from: torch.Tensor
    tokens: torch.Tensor
    column: int


def pack(sequences: Sequence[np.ndarray], prompt_lengths: Sequence[int], roots: Sequence[Hashable], pad: int) -> Packed:
    """Merge the common beginnings of sequences that have the same prompt.

    Args:
        sequences: prompt and response of each, int64 ``[length]``.
        prompt_lengths: how many tokens of each are its prompt, at least 1.
        roots: what else the sequences must have in common to share anything: their audio.
        pad: token to fill rows with.

    Returns:
        The sequences of each prompt as one row, in the order in which the prompts come.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, (sequence, length, root) in enumerate(zip(sequences, prompt_lengths, roots, strict=True)):
        groups.setdefault((root, sequence[:length].tobytes()), []).append(number)
    trees = [_tree([sequences[number] for number in members]) for members in groups.values()]
    width = max(len(ids) for ids, *_ in trees)
    ids = np.full((len(trees), width), pad, dtype=np.int64)
    positions = np.zeros((len(trees), width), dtype=np.int64)
    mask = np.zeros((len(trees), width, width), dtype=bool)
    mask[:, np.arange(width), np.arange(width)] = True
    starts = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])])
    answers, seen_from, tokens = [], [], []
    for row, (members, (tree_ids, depths, sees, paths)) in enumerate(zip(groups.values(), trees, strict=True)):
        size = len(tree_ids)
        ids[row, :size], positions[row, :size], mask[row, :size, :size] = tree_ids, depths, sees
        for number, path in zip(members, paths, strict=True):
            before = slice(prompt_lengths[number] - 1, len(path) - 1)
            answers.append(starts[number] + np.arange(before.start, before.stop))
            seen_from.append(row * width + path[before])
            tokens.append(sequences[number][before.start + 1 :])
    return Packed(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        mask=torch.from_numpy(mask),
        first=[members[0] for members in groups.values()],
        answers=torch.from_numpy(np.concatenate(answers)),
        seen_from=torch.from_numpy(np.concatenate(seen_from)),
        tokens=torch.from_numpy(np.concatenate(tokens)),
        column=min(prompt_lengths) - 1,
    )


def _tree(sequences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Tokens, depths and ancestry of the tree of some sequences, and the path of each of them through it.

    In lexicographic order a sequence shares most with the one before it, so what it adds is what comes after that.
    """
    order = sorted(range(len(sequences)), key=lambda number: sequences[number].tolist())
    paths: list[np.ndarray] = [np.zeros(0, np.int64)] * len(sequences)
    added, size, before = [], 0, (np.zeros(0, np.int64), np.zeros(0, np.int64))
    for number in order:
        shared = _common(sequences[number], before[0])
        new = np.arange(size, size + len(sequences[number]) - shared)
        paths[number] = np.concatenate([before[1][:shared], new])
        before = (sequences[number], paths[number])
        added.append((number, shared))
        size += len(new)
    ids, depths = np.zeros(size, np.int64), np.zeros(size, np.int64)
    sees = np.zeros((size, size), dtype=bool)
    for number, shared in added:
        path = paths[number]
        new = path[shared:]
        ids[new], depths[new] = sequences[number][shared:], np.arange(shared, len(path))
        sees[np.ix_(new, path)] = np.arange(len(path))[None, :] <= np.arange(shared, len(path))[:, None]
    return ids, depths, sees, paths


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
