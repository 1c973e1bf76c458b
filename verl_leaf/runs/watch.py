"""The display of a run's progress, from its log and its metrics."""

import re
import subprocess
import sys
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from verl_leaf.common.console import Console
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import core_score, steps_of

QUIET_SECONDS = 600  # longer than any step of a healthy run on one machine
SECONDS_BETWEEN_LOOKS = 0.5
NOTE_WIDTH = 60
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
KILLED = re.compile(r"(\d+) Workers \(tasks / actors\) killed due to memory pressure")  # ray 2.60, node_manager.cc
WORKER = re.compile(r"^\([^)]*pid=[^)]*\)\s*")  # Ray's prefix with the process that printed a line


class Watch:
    """A run that is watched through its files."""

    def __init__(self, folder: RunFolder, console: Console):
        self.folder = folder
        self.console = console
        self._log_end = folder.log.stat().st_size if folder.log.exists() else 0
        self._log_start = self._log_end
        self._metrics_start: dict[Path, int] = {file: file.stat().st_size for file in folder.metrics.glob("*.jsonl")}
        self._metrics_read = dict(self._metrics_start)
        self._heard = time.monotonic()
        self._warned = False
        self._killed = False
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("Starting", total=None, note="")

    def until_it_ends(self, process: subprocess.Popen) -> int:
        """Show progress until a process has ended, and return its exit status.

        Raises:
            SystemExit: Ray has killed workers, and the run has printed nothing since. verl 0.9.1 then often waits for
                ever: for vLLM to take weights (workers/rollout/vllm_rollout/bucketed_weight_transfer.py), for example.
        """
        with self._progress:
            while True:
                ended = process.poll() is not None
                self._look()
                if ended:
                    return process.returncode
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def has_stepped(self) -> bool:
        """Return True if a step has ended since this start, even if it has not been shown yet."""
        return any(
            "timing_s/step" in values
            for file in self.folder.metrics.glob("*.jsonl")
            for _, values in steps_of(_lines_after(file, self._metrics_start.get(file, 0))[0])
        )

    def last_error(self) -> str:
        """Return the last traceback of this start's log, or its last lines."""
        text = COLOURS.sub("", self.folder.log.read_bytes()[self._log_start :].decode(errors="replace"))
        lines = [line.rstrip() for line in text.split("\n")]
        tracebacks = [number for number, line in enumerate(lines) if "Traceback (most recent call last)" in line]
        return "\n".join(lines[max(tracebacks[-1] if tracebacks else 0, len(lines) - 40) :])

    def _look(self) -> None:
        lines, self._log_end = _lines_after(self.folder.log, self._log_end)
        for line in lines.decode(errors="replace").split("\n"):
            self._show_line(COLOURS.sub("", line).strip())
        for file in sorted(self.folder.metrics.glob("*.jsonl")):
            content, self._metrics_read[file] = _lines_after(file, self._metrics_read.get(file, 0))
            for step, values in steps_of(content):
                self._show_step(step, values)
        if lines:
            self._heard, self._warned = time.monotonic(), False
        elif time.monotonic() - self._heard > QUIET_SECONDS and self._killed:
            sys.exit(f"No output for {QUIET_SECONDS // 60} minutes since Ray killed workers, so the run is ended")
        elif time.monotonic() - self._heard > QUIET_SECONDS and not self._warned:
            self._warned = True
            self.console.print(
                f"No output for {QUIET_SECONDS // 60} minutes. verl hangs without a message if Ray has too few CPUs "
                f"(ray_kwargs.ray_init.num_cpus) or if a worker has failed. Look at {self.folder.log}",
                style="yellow",
            )

    def _show_line(self, line: str) -> None:
        if total := re.search(r"Total training steps: (\d+)", line):
            self._progress.update(self._task, total=int(total[1]))
        if killed := KILLED.search(line):
            self._killed = True
            self.console.print(
                f"Ray has killed {killed[1]} workers, because this machine's memory was almost full. They may belong to this "
                "run. Use smaller batches, fewer workers, or a machine with more memory",
                style="red",
            )
        text = WORKER.sub("", line)
        if text and not self._progress.tasks[self._task].completed:
            self._progress.update(self._task, note=text[:NOTE_WIDTH])

    def _show_step(self, step: int, values: dict[str, float]) -> None:
        note = ""
        if "critic/score/mean" in values:
            note += f"reward {values['critic/score/mean']:.3f}"
        if "timing_s/step" in values:
            note += f" s/step {values['timing_s/step']:.1f}"
        self._progress.update(self._task, description="Training", completed=step, note=note)
        self._killed = False  # the run continues, so the workers were not its own
        if note and not self.console.is_terminal:
            self.console.print(f"step {step}: {note}")
        scores = [f"{what} {value:.3f}" for name, value in sorted(values.items()) if (what := core_score(name))]
        if scores:
            self.console.print(f"step {step}: validation: {', '.join(scores)}")


def _lines_after(file: Path, start: int) -> tuple[bytes, int]:
    """Return the complete lines of a file from a byte on, and where they end."""
    if not file.exists():
        return b"", start
    with open(file, "rb") as opened:
        opened.seek(start)
        content = opened.read()
    whole = content[: content.rfind(b"\n") + 1]
    return whole, start + len(whole)
