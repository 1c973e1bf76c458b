"""Runs the cells of the study that are not done, then writes its report.

    python -m examples.leaf_against_grpo.study [CELLS ...]

Stopped and given again, the same command goes on: cells that are done are left alone, those begun go on from their last
checkpoint.
"""

import argparse
import fnmatch
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from examples.leaf_against_grpo import report
from examples.leaf_against_grpo.cells import COMMON, COST, STEPS, Cell, plan

HERE = Path(__file__).parent.resolve()
PROJECT = HERE.parents[1]
ATTEMPTS = 3
"""How often in a row a lane may end without having finished a cell."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", default=["*"], help="names or patterns such as translation/leaf/1 or '*/1'")
    parser.add_argument("--task", type=Path, default=Path("work/leaf_against_grpo"), help="what prepare.py has made")
    parser.add_argument("--out", type=Path, default=Path("runs/leaf_against_grpo"), help="folder of the study")
    parser.add_argument(
        "--lanes", type=int, default=2, help="cells at the same time, 7 GiB of memory each (default: %(default)s)"
    )
    args = parser.parse_args()
    task, out = args.task.resolve(), args.out.resolve()
    cells = [cell for cell in plan() if any(fnmatch.fnmatch(cell.name, pattern) for pattern in args.cells)]
    if not cells:
        parser.error(f"no cell is called {' or '.join(args.cells)}; all are: {' '.join(cell.name for cell in plan())}")
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    left = [cell for cell in cells if not done(out, cell)]
    costs = [cell for cell in left if cell.method in COST]
    try:
        for together, lanes in (([cell for cell in left if cell not in costs], args.lanes), (costs, 1)):
            if together:
                run(out, task, together, min(lanes, len(together)), console)
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on from the last checkpoints")
        return 130
    report.write(out, task / "data", out / "report", console)
    return 0


def done(out: Path, cell: Cell) -> bool:
    return (out / cell.name / "summary.json").exists()


def step_of(out: Path, cell: Cell) -> int:
    """How many steps of a cell are done."""
    if done(out, cell):
        return STEPS
    logs = sorted((out / cell.name / "metrics").glob("*.jsonl"))
    lines = [line for log in logs for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return json.loads(lines[-1])["step"] if lines else 0


def run(out: Path, task: Path, cells: list[Cell], lanes: int, console: Console) -> None:
    """Runs cells in lanes, each a process with engines of its own, until all are done.

    Raises:
        RuntimeError: a lane fails again and again; the message names its log.
    """
    (out / "cells.json").write_text(json.dumps({cell.name: cell.overrides(str(task / "data")) for cell in cells}))
    command = [
        sys.executable,
        "-m",
        "examples.leaf_against_grpo.lane",
        str(out),
        str(out / "cells.json"),
        *recipe(out, task),
    ]
    processes = {lane: start(out, lane, command) for lane in range(lanes)}
    failures, finished = 0, 0
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("starting", total=len(cells) * STEPS)
            shown = set()
            while processes:
                time.sleep(2)
                steps = {cell: step_of(out, cell) for cell in cells}
                for cell in cells:
                    if cell not in shown and done(out, cell):
                        shown.add(cell)
                        val = json.loads((out / cell.name / "summary.json").read_text())["val"]["after"]
                        console.print(f"{cell.name}: reward {val['reward']:.3f}, BLEU {val['bleu']:.1f}")
                at_work = ", ".join(f"{cell.name} {step}" for cell, step in steps.items() if 0 < step < STEPS)
                progress.update(
                    bar, completed=sum(steps.values()), description=f"{len(shown)} of {len(cells)} cells; {at_work}"
                )
                for lane, process in list(processes.items()):
                    status = process.poll()
                    if status == 0:
                        del processes[lane]
                    elif status is not None:
                        failures, finished = (0 if len(shown) > finished else failures) + 1, len(shown)
                        if failures == ATTEMPTS:
                            raise RuntimeError(f"{failures} lanes failed in a row: see {out}/lane_{lane}.log")
                        processes[lane] = start(out, lane, command)
    finally:
        for process in processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def start(out: Path, lane: int, command: list[str]) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "HYDRA_FULL_ERROR": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # to cores: all lanes would bind to the same ones
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # or vLLM starts one more process a lane, in spite of the `uni` executor
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    with open(out / f"lane_{lane}.log", "a") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=PROJECT, start_new_session=True
        )


def recipe(out: Path, task: Path) -> list[str]:
    """veRL's overrides: those of the recipe for Qwen2-Audio, then the study's."""
    test = str(task / "data/translation_test.parquet")
    environment = {"MODEL": str(task / "model"), "TRAIN": test, "VAL": test, "RUN": str(out), "METHOD": "leaf"}
    dry_run = subprocess.run(
        ["bash", PROJECT / "recipes/qwen2audio_leaf.sh", "--dry-run", *COMMON],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    words = shlex.split(dry_run.stdout.replace("\\\n", ""))
    flags = words[words.index("verl.trainer.main_ppo") + 1 :]
    own = [f"data.val_files={test}", "trainer.logger=[console,file]"]
    return [flag for flag in flags if not flag.startswith(("hydra.", "trainer.logger="))] + own


if __name__ == "__main__":
    sys.exit(main())
