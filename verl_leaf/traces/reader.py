"""Reads the traces that :mod:`verl_leaf.traces.writer` writes, as far as they can be read: a run may be writing still."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from verl_leaf.traces.schema import FILE_NAME, Head, Prompt


@dataclass(frozen=True)
class Trace:
    """One file: a step, and its prompts by the number of their line, counted from 1 after the head."""

    step: int
    prompts: dict[int, Prompt]


def traces_folder(run: Path) -> Path:
    """Where a run writes its traces: the folder itself, ``traces/`` in it, or what its configuration says.

    Raises:
        ValueError: there are none.
    """
    if not run.is_dir():
        raise ValueError(f"{run}: {'is a file, not the folder of a run' if run.exists() else 'no such folder'}")
    for folder in (run, run / "traces"):
        if folder.is_dir() and trace_files(folder):
            return folder
    folder = _configured_folder(run)
    if folder is not None and folder.is_dir() and trace_files(folder):
        return folder
    raise ValueError(
        f"{run}: no traces (step_*.jsonl) here, in traces/ or where its configuration says. LEAF writes them with "
        "algorithm.leaf.trace_dir=FOLDER; `verl-leaf train` sets it. A run that has just begun has none yet"
    )


def _configured_folder(run: Path) -> Path | None:
    """``algorithm.leaf.trace_dir`` of the run's configuration, if it has one."""
    file = run / "hydra" / ".hydra" / "config.yaml"
    if not file.exists():
        return None
    try:
        told = OmegaConf.select(OmegaConf.load(file), "algorithm.leaf.trace_dir")
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    return Path(told).expanduser() if isinstance(told, str) else None


def trace_files(folder: Path) -> dict[int, Path]:
    """The files of a folder of traces by their step, in its order."""
    found = ((FILE_NAME.fullmatch(file.name), file) for file in folder.iterdir())
    return dict(sorted((int(match[1]), file) for match, file in found if match))


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
                    skipped.append(f"{file.name}, line {number + 1}: {_reason(error)}")
                    if number == 0:  # what follows may be anything
                        break
        if number < 0:
            skipped.append(f"{file.name}: is empty")
    except OSError as error:
        skipped.append(f"{file.name}: {error.strerror}")
    return Trace(step, prompts)


def _reason(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
