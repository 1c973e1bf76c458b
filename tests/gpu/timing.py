"""Seconds and memory of what runs on a GPU."""

import time
from collections.abc import Callable

import torch


def seconds(call: Callable, *arguments) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call(*arguments)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_mib(call: Callable, *arguments) -> float:
    """The most memory that a call has above what there was before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(*arguments)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
