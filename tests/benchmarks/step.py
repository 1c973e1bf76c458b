"""Seconds of a training step, and which processes spend them.

python -m tests.benchmarks.step                          (the quick start)
python -m tests.benchmarks.step --script examples/next_letter/run.sh
python -m tests.benchmarks.step --lane work/leaf_against_grpo   (a lane of the study; what its prepare.py has made)
python -m tests.benchmarks.step --against CHECKOUT ...   (in turns with other checkouts, twice each)

Steps are counted from the sixth on: earlier ones compile. What is made once for a script, such as the spoken task, is made
by this checkout and used by all.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil

from tests.helpers import PROJECT
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import read_scalars

FIRST, LAST = 6, 30
CELL = "register/leaf/0.003/1"
OVERRIDES = [
    f"trainer.total_training_steps={LAST}",
    "trainer.test_freq=-1",
    "trainer.val_before_train=False",
    "trainer.save_freq=-1",
    "trainer.logger=[file]",
]


def cpu_seconds(root: psutil.Process) -> dict[str, float]:
    """Return the CPU seconds of a process and of all that it started, by the names that Ray and vLLM give them."""
    seconds: dict[str, float] = defaultdict(float)
    for process in [root, *root.children(recursive=True)]:
        try:
            name, times = process.cmdline()[0], process.cpu_times()
        except (psutil.Error, IndexError):
            continue
        # Ray adds the method that runs: ray::WorkerDict.update_actor
        seconds[Path(name).name.split(".")[0]] += times.user + times.system
    return seconds


def run(checkout: Path, script: str, lane: Path | None, variables: dict[str, str]) -> tuple[float, dict[str, float]]:
    """Run a checkout's script, or a cell of its study: the median step in seconds, and CPU seconds per step by process."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = RunFolder(Path(folder) / CELL if lane else Path(folder)).metrics
        metrics.mkdir(parents=True)  # only a recipe makes it
        environment = os.environ | variables | {"RUN": folder, "PYTHONPATH": str(checkout)}
        environment["VERL_FILE_LOGGER_PATH"] = str(metrics / "000.jsonl")  # a recipe has its own
        command = ["bash", script, *OVERRIDES]
        if lane:
            study = "examples.leaf_against_grpo.study"
            command = [sys.executable, "-m", study, CELL, "--lanes=1", f"--task={lane}", f"--out={folder}"]
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)
        before: dict[str, float] = {}
        used: dict[str, float] = {}
        while process.poll() is None:
            steps = read_scalars(metrics).get("timing_s/step", {})
            if len(steps) >= FIRST - 1 and not before:
                before, first = cpu_seconds(psutil.Process(process.pid)), len(steps)
            if LAST > len(steps) > FIRST:
                now = cpu_seconds(psutil.Process(process.pid))
                used = {name: (now[name] - before[name]) / (len(steps) - first) for name in now if name in before}
            time.sleep(0.2)
        if process.returncode:
            raise SystemExit(f"{checkout}: {' '.join(command)} ended with status {process.returncode}")
        steps = read_scalars(metrics)["timing_s/step"]
    return statistics.median(seconds for step, seconds in steps.items() if step >= FIRST), used


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--script", default="recipes/qwen2audio_leaf.sh")
    arguments.add_argument("--lane", type=Path, help="measure a lane of the study instead: the folder of its tasks")
    arguments.add_argument("--against", type=Path, nargs="+", default=[], help="other checkouts of this project")
    arguments.add_argument("--turns", type=int, default=2, help="how often each checkout has its turn")
    arguments.add_argument("--task", type=Path, help="folder of the spoken task, if it has been made")
    options = arguments.parse_args()
    task = options.task and options.task.resolve()
    data = {"MODEL": "model", "TRAIN": "data/train.parquet", "VAL": "data/val.parquet"}
    variables = {name: str(task / path) for name, path in data.items()} if task else {}
    checkouts = [PROJECT, *(checkout.resolve() for checkout in options.against)]
    seconds = defaultdict(list)  # of the median step, and CPU seconds per step, of every turn
    for turn in range(options.turns if options.against else 1):
        for checkout in checkouts:
            median, used = run(checkout, options.script, options.lane and options.lane.resolve(), variables)
            seconds[checkout].append((median, sum(used.values())))
            print(f"{checkout.name}: {median:.2f} s and {sum(used.values()):.2f} CPU s per step", flush=True)
            if turn == 0 and checkout == PROJECT:
                for name, cpu in sorted(used.items(), key=lambda item: -item[1])[:12]:
                    print(f"    {cpu:6.3f} CPU s per step  {name}")
    ours, *theirs = (np.mean(seconds[checkout], axis=0) for checkout in checkouts)
    for checkout, (wall, cpu) in zip(checkouts[1:], theirs, strict=True):
        print(
            f"{PROJECT.name} / {checkout.name}: {ours[0] / wall:.3f} of the seconds, {ours[1] / cpu:.3f} of the CPU seconds"
        )


if __name__ == "__main__":
    main()
