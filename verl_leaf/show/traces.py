"""Reads the traces that :mod:`verl_leaf.trace` writes, as far as they can be read: a run may be writing still."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class _Line(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False, frozen=True)


class Head(_Line):
    """The first line of a file."""

    format: str
    version: int
    step: int
    fork_budget: int
    credit: str


class Boundary(_Line):
    position: int
    response: int


class Node(_Line):
    boundary: int
    responses: list[int]
    value: float


class Span(_Line):
    start: int
    end: int
    node: int | None
    credit: float
    advantage: float


class Response(_Line):
    reward: float
    tokens: list[int]
    pieces: list[str]
    surprisal: list[float | None]
    policy: list[int]
    spans: list[Span]


class Prompt(_Line):
    """A prompt of a step and what LEAF made of its responses; the fields are those of :mod:`verl_leaf.trace`."""

    prompt: str
    data_source: Any
    reference: Any
    audio: list[str | None]
    root_value: float
    boundaries: list[Boundary]
    nodes: list[Node]
    responses: list[Response]

    @model_validator(mode="after")
    def _indices_exist(self):
        K = len(self.responses)
        for response in self.responses:
            T = len(response.tokens)
            if not len(response.pieces) == len(response.surprisal) == len(response.policy) == T:
                raise ValueError("pieces, surprisal and policy must be as many as tokens")
            for span in response.spans:
                if not 0 <= span.start <= span.end <= T or not (span.node is None or 0 <= span.node < len(self.nodes)):
                    raise ValueError(f"a span {span.start}..{span.end} to node {span.node} is outside of its response")
        for node in self.nodes:
            if not (0 <= node.boundary < len(self.boundaries) and node.responses):
                raise ValueError(f"a node of boundary {node.boundary}, which there is not, or of no response")
        for index in [i for node in self.nodes for i in node.responses] + [b.response for b in self.boundaries]:
            if not 0 <= index < K:
                raise ValueError(f"response {index} of {K}")
        return self

    def fired(self, boundary: int) -> bool:
        """Whether a selected boundary has a node."""
        return any(node.boundary == boundary for node in self.nodes)

    def usable(self, boundary: int) -> bool:
        """Whether a selected boundary has a node whose rewards differ."""
        return any(node.boundary == boundary and self.spread(node) > 0 for node in self.nodes)

    def spread(self, node: Node) -> float:
        """The highest less the lowest reward of a node's responses."""
        rewards = [self.responses[index].reward for index in node.responses]
        return max(rewards) - min(rewards)


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
