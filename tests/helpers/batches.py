"""Conversion of groups, given as plain lists, to the tensors of a batch, and of the result back to lists."""

import random
from types import SimpleNamespace

import torch


def pack(groups, width=None, seed=0, dtype=torch.float64):
    """Return one batch of all groups: rows of different groups interleaved at random, rows of one group in order.

    ``groups``: dicts with ``responses``, ``rewards`` and perhaps ``surprisal`` and ``policy``. Tokens and surprisals past
    the end of a response are random, as nothing may depend on them. ``rows[g][k]`` is the batch row of response ``k``.
    """
    rng = random.Random(seed)
    turns = [g for g, group in enumerate(groups) for _ in group["responses"]]
    rng.shuffle(turns)
    T = max([len(y) for group in groups for y in group["responses"]] + [0]) if width is None else width
    N = len(turns)
    batch = SimpleNamespace(
        responses=torch.tensor([[rng.randrange(4) for _ in range(T)] for _ in range(N)], dtype=torch.long).reshape(
            N, T
        ),
        surprisal=torch.tensor([[rng.uniform(0, 9) for _ in range(T)] for _ in range(N)], dtype=dtype).reshape(N, T),
        rewards=torch.zeros(N, dtype=dtype),
        lengths=torch.zeros(N, dtype=torch.long),
        mask=torch.zeros(N, T, dtype=torch.long),
        group=torch.tensor(turns, dtype=torch.long),
        rows=[[] for _ in groups],
    )
    for row, g in enumerate(turns):
        group, k = groups[g], len(batch.rows[g])
        batch.rows[g].append(row)
        n = len(group["responses"][k])
        batch.responses[row, :n] = torch.tensor(group["responses"][k], dtype=torch.long)
        if "surprisal" in group:
            batch.surprisal[row, :n] = torch.tensor(group["surprisal"][k], dtype=dtype)
        batch.rewards[row] = group["rewards"][k]
        batch.lengths[row] = n
        batch.mask[row, :n] = torch.tensor(group.get("policy", [[1] * n] * (k + 1))[k], dtype=torch.long)
    return batch


def unpack(result, rows, responses):
    """Return ``boundaries``, ``spans`` and ``advantages`` of the group with these rows, in the form of the reference."""
    tree, credited = result.tree, result.spans
    g = int(tree.group[rows[0]])
    boundaries = [p for p in tree.boundaries[g].tolist() if p < tree.num_tokens]
    spans = [
        [
            (
                int(credited.start[i, s]),
                int(credited.end[i, s]),
                float(credited.raw[i, s]),
                float(credited.normalised[i, s]),
            )
            for s in range(credited.valid.shape[1])
            if credited.valid[i, s]
        ]
        for i in rows
    ]
    advantages = [result.advantages[i, : len(y)].tolist() for i, y in zip(rows, responses, strict=True)]
    return boundaries, spans, advantages


def flat(nested):
    """Return the numbers of nested lists, in order."""
    return [x for item in nested for x in flat(item)] if isinstance(nested, list | tuple) else [nested]


def shape(nested):
    """Return the nesting of lists without the numbers."""
    return [shape(item) for item in nested] if isinstance(nested, list | tuple) else 0
