"""Reads the traces that :mod:`verl_leaf.traces.writer` writes, as far as they can be read: a run may be writing still."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from verl_leaf.traces.schema import FILE_NAME, Head, Prompt


@dataclass(frozen=True)
class Trace:
    """One file: a step, and its prompts by the number of their line, counted from 1 after the head."""

    step: int
    prompts: dict[int, Prompt]


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
