"""CPU time and memory of each process when a step has many rollouts, and when a run has many steps.

    python -m tests.benchmarks.load --out FOLDER [--prompts 4 16 64] [--steps 8]
    python -m tests.benchmarks.load --out FOLDER --prompts 4 --steps 2000

Each number of prompts is a run of the Qwen2-Audio recipe on the spoken task, 16 responses of at most 24 tokens to a prompt.
The first two steps are not counted: they compile. FOLDER gets the memory of every process after every step, as a table and as
a figure.
"""

import argparse
import csv
import os
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import psutil
from cycler import cycler
from matplotlib import pyplot
from matplotlib.colors import TABLEAU_COLORS
from rich.table import Table

from tests.benchmarks.step import cpu_seconds
from tests.helpers import PROJECT
from verl_leaf.common.console import Console
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import read_scalars

RESPONSES, TOKENS, SKIPPED = 16, 24, 2


def memory(root: psutil.Process) -> dict[str, float]:
    """MiB of a process and all that it has started, by the names that Ray and vLLM give them."""
    sizes: dict[str, float] = defaultdict(float)
    for process in [root, *root.children(recursive=True)]:
        try:
            sizes[Path(process.cmdline()[0]).name.split(".")[0]] += process.memory_info().rss / 2**20
        except (psutil.Error, IndexError):
            continue
    return sizes


def run(folder: Path, prompts: int, steps: int) -> tuple[dict[str, float], list[tuple[int, str, float]]]:
    """Run the recipe: CPU milliseconds per rollout by process, and (step, process, MiB)."""
    overrides = [
        *(f"data.train_batch_size={prompts}", f"actor_rollout_ref.rollout.n={RESPONSES}"),
        *(f"data.max_response_length={TOKENS}", f"trainer.total_training_steps={steps}", "trainer.total_epochs=10000"),
        *(
            "trainer.save_freq=-1",
            "trainer.test_freq=-1",
            "trainer.val_before_train=False",
            "algorithm.leaf.trace_every=1000000",
        ),
    ]
    command = ["bash", "recipes/qwen2audio_leaf.sh", *overrides]
    environment = os.environ | {"RUN": str(folder), "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL)
    seen: dict[int, dict[str, float]] = {}
    sizes = []
    while process.poll() is None:
        done = len(read_scalars(RunFolder(folder).metrics).get("timing_s/step", {}))
        if done >= SKIPPED and done not in seen:
            root = psutil.Process(process.pid)
            seen[done] = cpu_seconds(root)
            sizes += [(done, name, mib) for name, mib in memory(root).items()]
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}: see {folder}/train.log")
    first, last = min(seen), max(seen)
    rollouts = (last - first) * prompts * RESPONSES
    used = {
        name: 1000 * (seen[last][name] - seen[first][name]) / rollouts for name in seen[last] if name in seen[first]
    }
    return used, sizes


def write_memory(out: Path, sizes: list[tuple[int, str, float]]) -> None:
    """Write the memory of every process after every step as a table and as a figure."""
    with out.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "process", "MiB"), *sizes])
    largest = sorted({name for _, name, mib in sizes if mib > 50})
    figure, axes = pyplot.subplots(figsize=(8, 5))
    axes.set_prop_cycle(cycler(linestyle=["-", "--", ":"]) * cycler(color=TABLEAU_COLORS.values()))
    for name in largest:
        steps, mib = zip(*[(step, mib) for step, each, mib in sizes if each == name], strict=True)
        axes.plot(steps, mib, label=name)
    axes.set(xlabel="step", ylabel="MiB", ylim=(0, None))
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(out.with_suffix(".png"), dpi=120, bbox_inches="tight")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--prompts", type=int, nargs="+", default=[4, 16, 64])
    arguments.add_argument("--steps", type=int, default=8)
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found, grown = (
        {},
        Table("process", "MiB first", "MiB last", title=f"memory, {options.prompts[-1]} prompts per step"),
    )
    for prompts in options.prompts:
        found[prompts], sizes = run(options.out.resolve() / f"run_{prompts}", prompts, options.steps)
        write_memory(options.out / f"memory_{prompts}", sizes)
    for name in sorted({name for _, name, mib in sizes if mib > 50}):
        mib = [mib for _, each, mib in sizes if each == name]
        grown.add_row(name, f"{mib[0]:.0f}", f"{mib[-1]:.0f}")
    table = Table("process", *(f"{prompts} x {RESPONSES}" for prompts in found), title="CPU ms per rollout")
    for name in sorted(set().union(*found.values())):
        if max(used.get(name, 0.0) for used in found.values()) >= 0.1:
            table.add_row(name, *(f"{used.get(name, 0.0):.1f}" for used in found.values()))
    table.add_row("all", *(f"{sum(used.values()):.1f}" for used in found.values()))
    Console().print(table, grown)


if __name__ == "__main__":
    main()
