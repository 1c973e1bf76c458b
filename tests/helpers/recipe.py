"""The recipe, which tests start, kill and read."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers import PROJECT
from verl_leaf.runs.summary import read_scalars


class Recipe:
    """A recipe on the tiny task, in a folder of its own."""

    def __init__(
        self, task: Path, run: Path, name: str = "qwen2audio_leaf", model: Path | None = None, **environment: str
    ):
        self.script = PROJECT / f"recipes/{name}.sh"
        self.run = run
        self.model = model or task / "model"
        self.environment = {
            **os.environ,
            "MODEL": str(self.model),
            "TRAIN": str(task / "data/train.parquet"),
            "VAL": str(task / "data/val.parquet"),
            "RUN": str(run),
            "PYTHONPATH": str(PROJECT),
            **environment,
        }

    def start(self, *overrides: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", self.script, *map(str, overrides)],
            env=self.environment,
            start_new_session=True,
        )

    def finish(self, *overrides: str) -> None:
        """Run to the end; if it fails, show the end of the log."""
        process = self.start(*overrides)
        try:
            status = process.wait(timeout=900)
        finally:
            kill(process)
        logs = sorted(self.run.rglob("train.log"), key=lambda file: file.stat().st_mtime)
        assert status == 0, logs[-1].read_text(errors="replace")[-5000:] if logs else "no log"

    def scalars(self, part: str = ".") -> dict[str, dict[int, float]]:
        return read_scalars(self.run / part / "metrics")


def kill(process: subprocess.Popen) -> None:
    """Send SIGKILL to a recipe and, as the loss of a machine would, to every process below it."""
    import psutil

    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    for victim in (*children, psutil.Process(process.pid)):
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass
    process.wait()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 900) -> None:
    """Wait until a running recipe has reached a given point."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the recipe ended too early"
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        time.sleep(0.2)


def run_example(name: str, task: Path, *overrides: str, **environment: str) -> None:
    """Run ``examples/NAME/run.sh`` with its files in ``task``."""
    done = subprocess.run(
        ["bash", PROJECT / f"examples/{name}/run.sh", *overrides],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "TASK": str(task), **environment},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
