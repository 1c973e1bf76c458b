"""Which tokens of a packed row see which: the mask from each token's last descendant, beside the one written path by path.

    python -m tests.benchmarks.mask [--device cuda]

Both are made of the same trees; CPU milliseconds of packing and of the mask (on a GPU, of the clock), MiB of the mask. The first is of the published
micro-batch on one GPU.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.table import Table

from verl_leaf.common.console import Console
from verl_leaf.training.sharing.pack import _tree, pack

CELLS = ((1, 8, 1024, 200), (8, 16, 1024, 200), (1, 16, 1024, 1000), (4, 16, 1024, 1000))


def path_by_path(groups: list[list[np.ndarray]], width: int) -> torch.Tensor:
    """The mask as it was made before."""
    mask = np.zeros((len(groups), width, width), dtype=bool)
    mask[:, np.arange(width), np.arange(width)] = True
    for row, sequences in zip(mask, groups, strict=True):
        for path in _tree(sequences).paths:
            row[np.ix_(path, path)] = np.tri(len(path), dtype=bool)
    return torch.from_numpy(mask)


def timed(function: Callable, repeats: int = 3):
    """Return the result and the least milliseconds; of a CPU, so that other processes do not count, if there is no GPU."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        result = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return result, 1000 * best


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--device", default="cpu")
    device = arguments.parse_args().device
    torch.set_num_threads(1)  # several would wait for each other
    random, table = np.random.default_rng(0), Table("prompts x responses x tokens", "packing", "before", "now", "MiB")
    for prompts, responses, prompt, response in CELLS:
        groups = [
            [np.concatenate([own, random.integers(1, 99, response)]) for _ in range(responses)]
            for own in random.integers(1, 99, (prompts, prompt))
        ]
        sequences = [sequence for group in groups for sequence in group]
        lengths, roots = [prompt] * len(sequences), np.repeat(np.arange(prompts), responses).tolist()
        packed, packing = timed(lambda: pack(sequences, lengths, roots, pad=0))  # noqa: B023
        before, slow = timed(lambda: path_by_path(groups, packed.input_ids.shape[1]).to(device), repeats=1)  # noqa: B023
        now, fast = timed(lambda: packed.attention_mask(device))  # noqa: B023
        assert torch.equal(before, now)
        cell = f"{prompts} x {responses} x ({prompt} + {response})"
        table.add_row(cell, *(f"{value:.1f}" for value in (packing, slow, fast)), f"{now.numel() / 2**20:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
