"""Rows of tokens: where each ends, and how many are worked on at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor


def last_position(mask: Tensor) -> Tensor:
    """``[N]`` int64, the last position where ``mask [N, T]`` is not 0, or -1 where it is 0 throughout."""
    T = mask.shape[1]
    if T == 0:
        return torch.full(mask.shape[:1], -1, device=mask.device)
    found, from_end = mask.bool().flip(1).max(1)
    return torch.where(found, T - 1 - from_end, -1)


def row_blocks(N: int, T: int, device: torch.device) -> Iterator[slice]:
    """Slices of ``N`` rows of ``T`` tokens, each small enough that its temporaries stay in a CPU's cache.

    On a CPU a whole-batch temporary costs more in page faults than in arithmetic; on an accelerator the blocks only
    bound the memory.
    """
    height = max(1, (1 << (20 if device.type == "cpu" else 24)) // max(T, 1))
    return (slice(first, min(first + height, N)) for first in range(0, N, height))
