"""Run the cells of the study that are not done, first those that choose the learning rates; then write the report.

    python -m examples.leaf_against_grpo.study [--second | CELLS ...]

If stopped, run the same command again: it keeps finished cells and resumes the others from their last checkpoint.
"""

import argparse
import fnmatch
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from examples.leaf_against_grpo import report
from examples.leaf_against_grpo.cells import COMMON, COST, SECOND, STARTS, SWEEP, Cell, possible, reported
from verl_leaf.common.console import Console
from verl_leaf.common.progress import track
from verl_leaf.config import quoted
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import steps_of

HERE = Path(__file__).parent.resolve()
PROJECT = HERE.parents[1]
ATTEMPTS = 3
"""How many times in a row a lane may end without having finished a cell."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cells", nargs="*", help="names or patterns such as register/leaf/0.003/1 or 'report/*' (default: all)"
    )
    parser.add_argument("--second", action="store_true", help="run the cells of the second study")
    parser.add_argument(
        "--task", type=Path, default=Path("work/leaf_against_grpo"), help="folder that prepare.py has made"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/leaf_against_grpo"), help="folder of the study")
    parser.add_argument(
        "--lanes", type=int, default=2, help="cells at the same time, 7 GiB of memory each (default: %(default)s)"
    )
    args = parser.parse_args()
    task, out = args.task.resolve(), args.out.resolve()
    asked = [cell for cell in possible() if any(fnmatch.fnmatch(cell.name, pattern) for pattern in args.cells)]
    if args.cells and not asked:
        parser.error(f"no cell is called {' or '.join(args.cells)}. A valid name is {SWEEP[0].name}")
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    try:
        if args.second:
            run(out, task, [*SECOND], args.lanes, console)
        elif args.cells:
            run(out, task, asked, args.lanes, console)
        else:
            run(out, task, [*STARTS, *SWEEP], args.lanes, console)
            run(out, task, reported(lambda cell: report.area(RunFolder(out / cell.name))), args.lanes, console)
            run(out, task, [COST], 1, console)
    except KeyboardInterrupt:
        console.print("Stopped. Run the same command again to resume from the last checkpoints")
        return 130
    report.write(out, out / "results", console)
    return 0


def done(out: Path, cell: Cell) -> bool:
    return RunFolder(out / cell.name).finished


def step_of(out: Path, cell: Cell) -> int:
    """Return the number of steps of a cell that are done."""
    if done(out, cell):
        return cell.steps
    logs = sorted(RunFolder(out / cell.name).metrics.glob("*.jsonl"))
    return max((step for log in logs for step, _ in steps_of(log.read_bytes())), default=0)


def run(out: Path, task: Path, cells: list[Cell], lanes: int, console: Console) -> None:
    """Run the cells that are not done, in lanes: processes with their own engines.

    Raises:
        RuntimeError: a lane fails again and again; the message names its log.
    """
    cells = [cell for cell in cells if not done(out, cell)]
    if not cells:
        return
    plan_file = out / "cells.json"
    plan_file.write_text(json.dumps({cell.name: cell.overrides(str(task / "data")) for cell in cells}))
    lane_module = [sys.executable, "-m", "examples.leaf_against_grpo.lane"]
    command = [*lane_module, str(out), str(plan_file), *settings(task)]
    processes = {lane: start(out, lane, command) for lane in range(min(lanes, len(cells)))}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    left = sum(cell.steps - step_of(out, cell) for cell in cells)
    try:
        steps = steps_as_they_end(out, cells, processes, command, console)
        for _ in track(steps, f"Training {len(cells)} cells", total=left, console=console):
            pass
    finally:
        for process in processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def steps_as_they_end(
    out: Path, cells: list[Cell], processes: dict[int, subprocess.Popen], command: list[str], console: Console
) -> Iterator[None]:
    """Wait for the lanes, restart those that fail, and yield once for every step of a cell that ends."""
    seen = {cell: step_of(out, cell) for cell in cells}
    finished: set[Cell] = set()
    failures = 0
    while processes:
        time.sleep(2)
        for cell in cells:
            step = step_of(out, cell)
            yield from itertools.repeat(None, step - seen[cell])
            seen[cell] = step
            if cell not in finished and done(out, cell):
                finished.add(cell)
                failures = 0
                console.print(f"{cell.name}: mean reward of the rollouts {report.area(RunFolder(out / cell.name)):.3f}")
        for lane, process in list(processes.items()):
            status = process.poll()
            if status == 0:
                del processes[lane]
            elif status is not None:
                failures += 1
                if failures == ATTEMPTS:
                    raise RuntimeError(f"{failures} lanes failed in a row. See {out}/lane_{lane}.log")
                processes[lane] = start(out, lane, command)


def start(out: Path, lane: int, command: list[str]) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "HYDRA_FULL_ERROR": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": "local",  # a cluster of its own, also beside another one, or what is left of one
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # to cores: all lanes would bind to the same ones
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # or vLLM starts one more process per lane, in spite of the `uni` executor
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    with open(out / f"lane_{lane}.log", "a") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=PROJECT, start_new_session=True
        )


def settings(task: Path) -> list[str]:
    """Return what all cells have in common, as overrides of `leaf_speech_cpu`."""
    test = quoted(task / "data/translation_test.parquet")  # an engine starts with some data; a cell brings its own
    return [
        f"actor_rollout_ref.model.path={quoted(task / 'model')}",
        f"data.train_files={test}",
        f"data.val_files={test}",
        "trainer.project_name=verl_leaf",
        "trainer.logger=[console,file]",
        *COMMON,
    ]


if __name__ == "__main__":
    sys.exit(main())
