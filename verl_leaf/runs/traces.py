"""Find and read the traces that :mod:`verl_leaf.training.traces.writer` writes, as far as possible: a run may be writing still."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from pydantic import ValidationError

from verl_leaf.common.console import Console
from verl_leaf.common.errors import in_a_line
from verl_leaf.common.progress import track
from verl_leaf.runs.folder import RunFolder
from verl_leaf.training.traces.schema import FILE_NAME, Head, Prompt


@dataclass(frozen=True)
class Trace:
    """One file: a step, and its prompts by the number of their line, counted from 1 after the head."""

    step: int
    prompts: dict[int, Prompt]


def trace_files(folder: Path) -> dict[int, Path]:
    """The files of a folder of traces by their step, in its order."""
    matches = ((FILE_NAME.fullmatch(file.name), file) for file in folder.iterdir())
    return dict(sorted((int(match[1]), file) for match, file in matches if match))


def read_trace(step: int, file: Path, skipped: list[str]) -> Trace:
    """Read the trace of a step, line by line.

    Args:
        step: the training step that its name tells.
        file: its path.
        skipped: gets a sentence for everything that could not be read.
    """
    prompts = {}
    number = -1
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines):
                if not line.endswith(b"\n"):
                    skipped.append(f"{file.name}: its last line is cut off, or being written")
                    break
                try:
                    if number:
                        prompts[number] = Prompt.model_validate_json(line)
                    else:
                        Head.model_validate_json(line)
                except ValidationError as error:
                    skipped.append(f"{file.name}, line {number + 1}: {in_a_line(error.errors(include_url=False))}")
                    if number == 0:  # what follows may be anything
                        break
        if number < 0:
            skipped.append(f"{file.name}: is empty")
    except OSError as error:
        skipped.append(f"{file.name}: {error.strerror}")
    return Trace(step, prompts)


def traces_folder(run: Path) -> Path:
    """Where a run's traces are: in the folder itself, in ``traces/``, or where its configuration says.

    Raises:
        ValueError: there are none.
    """
    if not run.is_dir():
        raise ValueError(f"{run}: {'is a file, not the folder of a run' if run.exists() else 'no such folder'}")
    for folder in _possible_folders(RunFolder(run)):
        if folder.is_dir() and trace_files(folder):
            return folder
    raise ValueError(
        f"{run}: no traces (step_*.jsonl) here, in traces/ or where its configuration says. LEAF writes them with "
        "algorithm.leaf.trace_dir=FOLDER; `verl-leaf train` sets it. A run that has just begun has none yet"
    )


def _possible_folders(run: RunFolder) -> Iterator[Path]:
    yield from (run.path, run.traces)
    config = run.read_config()
    configured = OmegaConf.select(config, "algorithm.leaf.trace_dir") if config is not None else None
    if isinstance(configured, str):
        yield Path(configured).expanduser()


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
