"""Reads the traces that :mod:`verl_leaf.traces.writer` writes, as far as they can be read: a run may be writing still."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from pydantic import ValidationError

from verl_leaf.traces.schema import Head, Prompt


@dataclass(frozen=True)
class Trace:
    """One file: a step, and its prompts by the number of their line, counted from 1 after the head."""

    step: int
    prompts: dict[int, Prompt]


def traces_folder(run: Path) -> Path:
    """Where a run writes traces to: ``algorithm.leaf.trace_dir`` of its configuration, or the folder itself.

    Raises:
        ValueError: there are none.
    """
    config = run / "hydra" / ".hydra" / "config.yaml"
    choices = [run, run / "traces"]
    if config.exists():
        told = OmegaConf.select(OmegaConf.load(config), "algorithm.leaf.trace_dir")
        choices += [Path(told).expanduser()] if told else []
    for folder in choices:
        if any(folder.glob("step_*.jsonl")):
            return folder
    raise ValueError(
        f"{run}: no traces (step_*.jsonl) here, in traces/ or where its configuration says. LEAF writes them with "
        "+algorithm.leaf.trace_dir=FOLDER; `verl-leaf train` sets it. A run that has just begun has none yet"
    )


def trace_files(folder: Path) -> dict[int, Path]:
    """The files of a folder of traces by their step, in its order."""
    files = {}
    for file in folder.glob("step_*.jsonl"):
        number = file.stem.removeprefix("step_")
        if number.isdecimal():
            files[int(number)] = file
    return dict(sorted(files.items()))


def read_trace(step: int, file: Path, skipped: list[str]) -> Trace:
    """Read a file of traces.

    Args:
        step: the training step that its name tells.
        file: its path.
        skipped: gets a sentence for everything that could not be read.
    """
    lines = file.read_bytes().split(b"\n")
    if lines.pop():  # what follows the last line's end
        skipped.append(f"{file.name}: its last line is cut off, or being written")
    version = None
    prompts = {}
    for number, line in enumerate(lines):
        try:
            if number == 0:
                version = Head.model_validate_json(line).version
            else:
                prompts[number] = Prompt.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            kind = f" (version {version})" if version is not None else ""
            skipped.append(f"{file.name}{kind}, line {number + 1}: {f'{where}: ' if where else ''}{first['msg']}")
    return Trace(step, prompts)
