"""Rows of tokens: where they end, values that apply to several tokens, and how many rows are processed at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor


def last_position(mask: Tensor) -> Tensor:
    """Return ``[N]`` int64, the last position at which ``mask [N, T]`` is not 0, or -1 if there is none."""
    T = mask.shape[1]
    if T == 0:
        return torch.full(mask.shape[:1], -1, device=mask.device)
    is_any, from_end = mask.bool().flip(1).max(1)
    return torch.where(is_any, T - 1 - from_end, -1)


def row_blocks(N: int, T: int, device: torch.device) -> Iterator[slice]:
    """Return slices of ``N`` rows of ``T`` tokens, small enough that their temporaries stay in a CPU's cache.

    On a CPU, page faults of a whole-batch temporary cost more time than its arithmetic. On an accelerator the slices
    only limit the memory.
    """
    height = max(1, (1 << (20 if device.type == "cpu" else 24)) // max(T, 1))
    return (slice(first, min(first + height, N)) for first in range(0, N, height))


def per_token(start: Tensor, value: Tensor, T: int) -> Tensor:
    """Return ``[N, T]``, at each token the ``value [N, S]`` of the last ``start [N, S]`` up to it; the first start is 0."""
    N = len(start)
    result = torch.empty((N, T), device=value.device, dtype=value.dtype)
    count = torch.diff(start, dim=1, append=torch.full_like(start[:, :1], T))
    for rows in row_blocks(N, T, value.device) if T else ():
        repeated = value[rows].flatten().repeat_interleave(count[rows].flatten(), output_size=result[rows].numel())
        result[rows] = repeated.view(-1, T)
    return result
