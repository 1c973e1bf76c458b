"""Finds the traces of a run, wherever it writes them, and reads them step by step."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from verl_leaf.progress import track
from verl_leaf.runs.folder import RunFolder
from verl_leaf.traces.reader import Trace, read_trace, trace_files


def traces_folder(run: Path) -> Path:
    """Where a run's traces are: in the folder itself, in ``traces/``, or where its configuration says.

    Raises:
        ValueError: there are none.
    """
    if not run.is_dir():
        raise ValueError(f"{run}: {'is a file, not the folder of a run' if run.exists() else 'no such folder'}")
    for folder in (run, RunFolder(run).traces):
        if folder.is_dir() and trace_files(folder):
            return folder
    configured = _configured_folder(RunFolder(run))
    if configured is not None and configured.is_dir() and trace_files(configured):
        return configured
    raise ValueError(
        f"{run}: no traces (step_*.jsonl) here, in traces/ or where its configuration says. LEAF writes them with "
        "algorithm.leaf.trace_dir=FOLDER; `verl-leaf train` sets it. A run that has just begun has none yet"
    )


def _configured_folder(run: RunFolder) -> Path | None:
    config = run.read_config()
    told = OmegaConf.select(config, "algorithm.leaf.trace_dir") if config is not None else None
    return Path(told).expanduser() if isinstance(told, str) else None


def read_traces(folder: Path, steps: Iterable[int], what: str, skipped: list[str], console: Console) -> Iterator[Trace]:
    """Read the traces of some steps, one after the other, and show the progress.

    Args:
        folder: of the traces.
        steps: which of those that it has.
        what: names the work, as in "Reading traces".
        skipped: gets a sentence for everything that could not be read.
        console: for the progress.
    """
    files = trace_files(folder)
    wanted = sorted(set(steps))
    for step in track(wanted, what, total=len(wanted), console=console):
        yield read_trace(step, files[step], skipped)


def say_skipped(title: str, sentences: list[str], console: Console) -> None:
    """Say what a page or figure does not hold, a line per sentence."""
    for sentence in sentences:
        console.print(f"{title}: {sentence}", markup=False, highlight=False, soft_wrap=True)
