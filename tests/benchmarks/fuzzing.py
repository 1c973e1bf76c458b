"""What the fuzzers share: thousands of cases in a process whose memory and time are limited; those that end badly are kept."""

import argparse
import collections
import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from verl_leaf.common.progress import track

MEMORY = 2**30
"""Bytes that the process may have more than after its beginning."""


def arguments(description: str, cases: int = 10_000) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def fuzz(
    options: argparse.Namespace,
    begin: Callable[[], object],
    outcome: Callable[[int], str],
    good: set[str],
    keep: Callable[[int, Path], object],
    seconds: float = 20,
) -> None:
    """Prints how many cases ended how.

    Args:
        options: of :func:`arguments`.
        begin: prepares the process in which cases run, before its memory is limited.
        outcome: how the case of a seed ends; the process ends the case after ``seconds``.
        good: outcomes that are as they should be.
        keep: writes the case of a seed to a path that does not exist, where it ended otherwise.

    Raises:
        SystemExit: there are others; the message names their folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="fuzzing_"))
    counts: collections.Counter[str] = collections.Counter()
    pool = _pool(begin)
    for seed in track(range(options.seed * 10**6, options.seed * 10**6 + options.cases), "Fuzzing", options.cases):
        try:
            result = pool.submit(outcome, seed).result(timeout=seconds)
        except (BrokenProcessPool, TimeoutError) as error:
            result = "crash" if isinstance(error, BrokenProcessPool) else "hang"
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False)
            pool = _pool(begin)
        counts[result] += 1
        if result not in good:
            keep(seed, folder / f"{result}-{seed}".replace(" ", "_").replace(":", ""))
    pool.shutdown()
    print(", ".join(f"{number} {result}" for result, number in counts.most_common()))
    if counts.keys() - good:
        raise SystemExit(f"see {folder}")
    folder.rmdir()


def _pool(begin: Callable[[], object]) -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(begin,))
    pool.submit(int).result()  # however long the beginning takes, it is not the first case's time
    return pool


def _begin(begin: Callable[[], object]) -> None:
    begin()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
