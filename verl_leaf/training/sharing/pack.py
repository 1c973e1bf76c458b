"""Packing of responses to one prompt into one row: a tree of tokens in which every common beginning occurs once.

A token attends to itself and to the tokens before it in its own response and in the prompt, and its position is the one
that it has there. So the row's forward pass gives each token the same result as the response's own pass.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from verl_leaf.models.shapes import padded_length


@dataclass(frozen=True)
class Packed:
    """Sequences as trees, one row per prompt, padded on the right. All tensors are on the CPU."""

    input_ids: torch.Tensor  # tokens, int64 `[rows, width]`
    position_ids: torch.Tensor  # position of each token in its sequences, int64 `[rows, width]`
    # Last column of the row whose token attends to this one, int32 `[rows, width]`; padding attends to itself. None
    # if each row is one sequence, for which a causal mask is enough.
    last: torch.Tensor | None
    first: list[int]  # index of one of its sequences for each row
    # Place of each response token's log-probability in the concatenated sequences, int64 `[targets]`: the place of
    # the token before it.
    target_index: torch.Tensor
    logit_index: torch.Tensor  # index in the flattened rows of the token before it, int64 `[targets]`
    target_ids: torch.Tensor  # ids of the response tokens, int64 `[targets]`
    first_logit: int  # first column whose logits are needed

    def attention_mask(self, device: torch.device | str) -> torch.Tensor | None:
        """Return which token (second axis) attends to which (third), bool ``[rows, width, width]``; None for a causal mask."""
        if self.last is None:
            return None
        column = torch.arange(self.last.shape[1], dtype=torch.int32, device=device)
        mask = column[:, None] <= self.last.to(device)[:, None]
        return mask.logical_and_(column[:, None] >= column)


@dataclass(frozen=True)
class Layout:
    """The number of rows of a micro-batch, and of tokens in each."""

    rows: int
    width: int

    def multiplications(self, hidden: int, masked: bool) -> int:
        """Return the approximate number of multiplications of a layer.

        It is 12 hidden² per token outside attention, and 2 hidden per pair of tokens in attention, of which a causal kernel
        skips half.
        """
        return self.rows * self.width * (12 * hidden**2 + (2 if masked else 1) * hidden * self.width)

    def memory(self, hidden: int, masked: bool) -> int:
        """Return the approximate bytes: 100 per token and unit of width for 32 layers, and a mask as bool and bf16."""
        return self.rows * self.width * (100 * hidden + 3 * masked * self.width)


def cheaper(packed: Layout, alone: Layout, hidden: int) -> bool:
    """Return whether rows of several sequences need no more work and memory than one row per sequence."""
    saves = packed.multiplications(hidden, masked=True) <= alone.multiplications(hidden, masked=False)
    return saves and packed.memory(hidden, masked=True) <= alone.memory(hidden, masked=False)


def pack(sequences: Sequence[np.ndarray], prompt_lengths: Sequence[int], roots: Sequence[Hashable], pad: int) -> Packed:
    """Merge the common beginnings of sequences with the same prompt.

    Args:
        sequences: prompt and response of each sequence, int64 ``[length]``.
        prompt_lengths: number of prompt tokens of each, at least 1.
        roots: keys that must also be equal for sequences to share anything: their audio.
        pad: token with which rows are padded.

    Returns:
        The sequences of each prompt as one row, in the order of the prompts.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, (sequence, length, root) in enumerate(zip(sequences, prompt_lengths, roots, strict=True)):
        groups.setdefault((root, sequence[:length].tobytes()), []).append(number)
    trees = [_tree([sequences[number] for number in members]) for members in groups.values()]
    width = padded_length(max(len(tree.ids) for tree in trees))
    starts = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])])
    target_index, logit_index, target_ids = [], [], []
    for row, (members, tree) in enumerate(zip(groups.values(), trees, strict=True)):
        for number, path in zip(members, tree.paths, strict=True):
            before = slice(prompt_lengths[number] - 1, len(path) - 1)
            target_index.append(starts[number] + np.arange(before.start, before.stop))
            logit_index.append(row * width + path[before])
            target_ids.append(sequences[number][before.start + 1 :])
    last = None
    if len(groups) < len(sequences):
        last = torch.from_numpy(np.stack([_seen(tree, width) for tree in trees]))
    return Packed(
        input_ids=torch.from_numpy(np.stack([_filled(tree.ids, width, pad) for tree in trees])),
        position_ids=torch.from_numpy(np.stack([_continued(tree.depths, width) for tree in trees])),
        last=last,
        first=[members[0] for members in groups.values()],
        target_index=torch.from_numpy(np.concatenate(target_index)),
        logit_index=torch.from_numpy(np.concatenate(logit_index)),
        target_ids=torch.from_numpy(np.concatenate(target_ids)),
        first_logit=min(prompt_lengths) - 1,
    )


@dataclass(frozen=True)
class _Tree:
    """A tree: tokens, their depths and the last token below each, int64 ``[size]``; each sequence's path, int64 ``[length]``."""

    ids: np.ndarray
    depths: np.ndarray
    last: np.ndarray
    paths: list[np.ndarray]


def _tree(sequences: list[np.ndarray]) -> _Tree:
    """Return the tree of some sequences.

    In lexicographic order a sequence shares most with the one before it, so it adds only what comes after the common
    part, and everything below a token directly follows it.
    """
    paths: list[np.ndarray] = [np.zeros(0, np.int64)] * len(sequences)
    ids, depths, size = [], [], 0
    before, path = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for number in sorted(range(len(sequences)), key=lambda number: sequences[number].astype(">i8").tobytes()):
        sequence = sequences[number]
        shared = _common(sequence, before)
        ids.append(sequence[shared:])
        depths.append(np.arange(shared, len(sequence)))
        path = np.concatenate([path[:shared], np.arange(size, size + len(sequence) - shared)])
        before, paths[number] = sequence, path
        size += len(sequence) - shared
    last = np.zeros(size, np.int64)
    for path in paths:
        last[path] = np.maximum(last[path], path[-1])
    return _Tree(np.concatenate(ids), np.concatenate(depths), last, paths)


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Return how many tokens two sequences share at the beginning."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def _filled(ids: np.ndarray, width: int, pad: int) -> np.ndarray:
    return np.concatenate([ids, np.full(width - len(ids), pad, np.int64)])


def _continued(depths: np.ndarray, width: int) -> np.ndarray:
    """Return positions that continue over the padding.

    transformers (masking_utils.py find_packed_sequence_indices) reads a jump as the beginning of another sequence, and
    would build a mask.
    """
    return np.concatenate([depths, depths[-1] + 1 + np.arange(width - len(depths))])


def _seen(tree: _Tree, width: int) -> np.ndarray:
    return np.concatenate([tree.last, np.arange(len(tree.last), width)]).astype(np.int32)
