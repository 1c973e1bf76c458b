"""Finding and reading of the traces of :mod:`verl_leaf.training.traces.writer`, also while a run is still writing them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from verl_leaf.common.console import Console
from verl_leaf.common.errors import in_a_line
from verl_leaf.common.files import check_inside, is_inside
from verl_leaf.common.progress import track
from verl_leaf.runs.folder import RunFolder
from verl_leaf.training.traces.schema import FILE_NAME, Head, Prompt


@dataclass(frozen=True)
class Trace:
    """The trace of a step, with its prompts by the number of their line after the head, starting at 1."""

    step: int
    prompts: dict[int, Prompt]


def trace_files(folder: Path) -> dict[int, Path]:
    """Return the trace files of a folder by step, in order."""
    matches = ((FILE_NAME.fullmatch(file.name), file) for file in folder.iterdir() if not file.is_fifo())
    return dict(sorted((int(match[1]), file) for match, file in matches if match))


def read_trace(step: int, file: Path, skipped: list[str]) -> Trace:
    """Read the trace of a step; the list ``skipped`` gets one sentence for everything that cannot be read."""
    prompts = {}
    number = -1
    if not is_inside(file, file.parent):
        skipped.append(f"{file.name}: this is a link to a file outside of the folder. It is not read")
        return Trace(step, {})
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines):
                if not line.endswith(b"\n"):
                    skipped.append(f"{file.name}: its last line is incomplete")
                    break
                try:
                    if number:
                        prompts[number] = Prompt.model_validate_json(line)
                    else:
                        Head.model_validate_json(line)
                except ValidationError as error:
                    skipped.append(f"{file.name}, line {number + 1}: {in_a_line(error.errors(include_url=False))}")
                    if number == 0:  # the rest may be anything
                        break
        if number < 0:
            skipped.append(f"{file.name}: the file is empty")
    except OSError as error:
        skipped.append(f"{file.name}: {error.strerror}")
    return Trace(step, prompts)


def traces_folder(run: Path) -> Path:
    """Return the folder of a run's traces: the folder itself, or ``traces/`` in it.

    Raises:
        ValueError: there are no traces.
    """
    if not run.is_dir():
        raise ValueError(f"{run} {'is a file, not the folder of a run' if run.exists() else 'does not exist'}")
    for folder in (run, RunFolder(run).traces):
        if folder.is_dir() and trace_files(folder):
            check_inside(folder, run)
            return folder
    raise ValueError(
        f"{run} contains no traces (step_*.jsonl), nor does {run}/traces. LEAF writes them if "
        "algorithm.leaf.trace_dir is set, as `verl-leaf train` does; otherwise give the folder of that setting. A run "
        "that has just started has none yet"
    )


def read_traces(folder: Path, steps: Iterable[int], what: str, skipped: list[str], console: Console) -> Iterator[Trace]:
    """Yield the traces of some steps in order, and show the progress; ``skipped`` is as in :func:`read_trace`."""
    files, ordered = trace_files(folder), sorted(set(steps))
    for step in track(ordered, what, len(ordered), console):
        yield read_trace(step, files[step], skipped)
