"""Rows of tokens: where each ends, values that hold for several of them, and how many are worked on at a time."""

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


def per_token(start: Tensor, value: Tensor, T: int) -> Tensor:
    """``[N, T]``, the ``value [N, S]`` whose ``start [N, S]`` came last; the first of ``start`` is 0."""
    N = len(start)
    result = torch.empty((N, T), device=value.device, dtype=value.dtype)
    count = torch.diff(start, dim=1, append=torch.full_like(start[:, :1], T))
    for rows in row_blocks(N, T, value.device) if T else ():
        repeated = value[rows].flatten().repeat_interleave(count[rows].flatten(), output_size=result[rows].numel())
        result[rows] = repeated.view(-1, T)
    return result
