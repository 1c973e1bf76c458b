"""What the advantage step costs: our estimators beside verl's GRPO, one copy of the inputs, and plain Python.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.advantage [--device cuda] [--plot bench.png]

All of a row is measured in turn in one process, so the ratios hold where the seconds vary; on a CPU it is the process's
CPU time, which other work on the machine disturbs least. Ours are as verl calls them, metrics included. "plain" is LEAF in
``tests/helpers/reference.py`` on a few groups, scaled to all of them.
"""

import argparse
import ctypes
import functools
import math
import re
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import verl  # noqa: F401  (registers our estimators)
from rich.table import Table
from verl.trainer.ppo import core_algos

from tests.helpers import reference
from verl_leaf.algorithm.estimators import ESTIMATORS
from verl_leaf.common.console import Console
from verl_leaf.common.progress import track

TOKENS = [(512, 8, tokens) for tokens in (256, 512, 1024, 2048, 4096)]
ROWS = [(groups, 8, 1024) for groups in (64, 128, 256, 512, 1024)]
SIZES = [(64, 8, 256), *dict.fromkeys(TOKENS + ROWS), (1024, 16, 4096)]
OURS = tuple(ESTIMATORS)
NAMES = (*OURS, "grpo", "grpo_vectorized", "copy", "plain")
PLAIN_GROUPS = 8
TARGET = (512, 8, 1024)
MIB = 2**20


def make_batch(G: int, K: int, T: int, device: str) -> dict:
    """Groups whose responses part at random positions, of random lengths from T/2 on."""
    generator = torch.Generator().manual_seed(0)
    N = G * K
    group = torch.arange(N) // K
    position = torch.arange(T)
    responses = torch.randint(0, 50_000, (N, T), generator=generator)
    stem = torch.randint(0, 50_000, (G, T), generator=generator)[group]
    part = torch.randint(0, T, (N, 1), generator=generator)
    responses = torch.where(position < part, stem, responses)
    del stem
    lengths = torch.randint(T // 2, T + 1, (N, 1), generator=generator)
    mask = (position < lengths).long()
    rewards = torch.zeros(N, T).scatter_(1, lengths - 1, torch.rand(N, 1, generator=generator))
    tensors = {
        "token_level_rewards": rewards,
        "response_mask": mask,
        "responses": responses,
        "rollout_log_probs": -torch.rand(N, T, generator=generator).exponential_() * mask,
    }
    batch = {name: tensor.to(device) for name, tensor in tensors.items()}
    return batch | {"index": np.array([f"prompt-{g}" for g in group.tolist()], dtype=object)}


def contestants(batch: dict) -> dict:
    given = {name: batch[name] for name in ("token_level_rewards", "response_mask", "index")}
    tensors = [batch[name] for name in ("responses", "rollout_log_probs", "response_mask")]
    return {
        **{
            name: functools.partial(core_algos.get_adv_estimator_fn(name), **given, config=None, batch=batch)
            for name in OURS
        },
        "grpo": lambda: core_algos.get_adv_estimator_fn("grpo")(**given),
        "grpo_vectorized": lambda: core_algos.get_adv_estimator_fn("grpo_vectorized")(**given),
        "copy": lambda: [tensor.clone() for tensor in tensors],
    }


def plain(batch: dict, K: int, groups: int) -> None:
    for g in range(groups):
        rows = slice(g * K, (g + 1) * K)
        lengths = batch["response_mask"][rows].sum(1).tolist()
        responses, log_probs = (
            [row[:n] for row, n in zip(batch[name][rows].tolist(), lengths, strict=True)]
            for name in ("responses", "rollout_log_probs")
        )
        surprisal = [[-p for p in row] for row in log_probs]
        reference.leaf(responses, surprisal, batch["token_level_rewards"][rows].sum(1).tolist(), 2, 1, "both")


def seconds(call, device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    call()
    if device != "cpu":
        torch.accelerator.synchronize()
    return clock() - began


def peak_extra(call, device: str) -> int:
    """Bytes that a call needs at its peak beyond what was there."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def measure(size: tuple[int, int, int], device: str, repeats: int) -> dict:
    G, K, _ = size
    batch = make_batch(*size, device)
    calls = contestants(batch)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            spent = seconds(call, device)
            if turn:  # the first warms up
                times[name].append(spent)
    result = {name: min(values) for name, values in times.items()}
    few = min(PLAIN_GROUPS, G)
    result["plain"] = seconds(lambda: plain(batch, K, few), "cpu") * G / few
    inputs = sum(tensor.nbytes for tensor in batch.values() if isinstance(tensor, torch.Tensor))
    return result | {"inputs": inputs, "memory": {name: peak_extra(calls[name], device) for name in OURS}}


def exponent(results: dict, name: str, sizes: list, axis: int) -> float:
    """Slope of log(seconds) over log(size)."""
    x = [math.log(size[axis]) for size in sizes]
    y = [math.log(results[size][name]) for size in sizes]
    return statistics.linear_regression(x, y).slope


def plot(results: dict, path: str) -> None:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for panel, sizes, axis, label in (
        (panels[0], ROWS, 0, "groups of 8 x 1024"),
        (panels[1], TOKENS, 2, "tokens, 512 x 8"),
    ):
        for name in NAMES:
            panel.loglog([size[axis] for size in sizes], [results[size][name] for size in sizes], "o-", label=name)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", metavar="FILE", help="picture of the growth")
    args = parser.parse_args()
    results = {}
    table = Table("groups x responses x tokens", *(f"{name}, ms" for name in NAMES), "memory / inputs")
    for size in track(SIZES, "Measuring", len(SIZES)):
        results[size] = result = measure(size, args.device, args.repeats)
        row = [f"{1000 * result[name]:.1f}" for name in NAMES]
        memory = ", ".join(f"{result['memory'][name] / result['inputs']:.2f}" for name in OURS)
        table.add_row(" x ".join(map(str, size)), *row, memory)
    console = Console(width=160)
    console.print(table)
    for name in OURS:
        rows, tokens = exponent(results, name, ROWS, 0), exponent(results, name, TOKENS, 2)
        console.print(
            f"{name} grows with rows as n^{rows:.2f}, with tokens as n^{tokens:.2f}; at {' x '.join(map(str, TARGET))} it "
            f"needs {results[TARGET]['memory'][name] / MIB:.0f} MiB beside inputs of "
            f"{results[TARGET]['inputs'] / MIB:.0f} MiB"
        )
    if args.plot:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
