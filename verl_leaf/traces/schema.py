"""A file of traces: a line about the step, and a line for each prompt."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


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
    """A prompt of a step and what LEAF made of its responses; the fields are those of :mod:`verl_leaf.traces.writer`."""

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
