"""The format of traces: a folder with one file per traced step, ``step_000010.jsonl``.

A file is UTF-8, one JSON object per line. Its first line is a :class:`Head`, every other line a :class:`Prompt`. The
models below are the whole definition: the writer builds them, and the reader rejects what they do not allow.

Indices start at 0: responses within their prompt, tokens within their response, boundaries and nodes within their
lists. Letters are those of arXiv 2606.07610.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FILE_NAME = re.compile(r"step_(\d{6,12})\.jsonl", re.ASCII)


def file_name(step: int) -> str:
    """Return the name of a step's file, which ``FILE_NAME`` matches."""
    return f"step_{step:06d}.jsonl"


Index = Annotated[int, Field(ge=0)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Real = Annotated[float, Field(ge=-1e40, le=1e40)]  # within it are sums of a few of verl's float32 rewards


class _Line(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False, frozen=True)


class Head(_Line):
    """The first line of a file: the step, and the options with which its trees were made."""

    format: Literal["leaf-trace"] = "leaf-trace"
    version: Literal[1] = 1
    step: Index
    fork_budget: Index  # B
    credit: str  # both, global or local


class Boundary(_Line):
    """A selected boundary: every response of the prompt may be cut before its token ``position``."""

    position: Annotated[int, Field(ge=1)]
    response: Index  # the response whose surprisal selected it


class Node(_Line):
    """Two or more responses that are identical before a boundary."""

    boundary: Index
    responses: Annotated[list[Index], Field(min_length=1)]
    value: Real  # V(v), the mean of their rewards


class Span(_Line):
    """Tokens ``start .. end - 1`` of a response, which share one credit."""

    start: Index
    end: Index
    node: Index | None  # node at which the span ends, or None for the tail
    credit: Real  # A
    advantage: Real  # the z-score of A over the prompt's spans


class Response(_Line):
    """A response, with one entry per token in ``tokens``, ``pieces``, ``surprisal`` and ``policy``."""

    reward: Real
    tokens: Annotated[list[Token], Field(min_length=1)]
    pieces: list[str]  # they join to the text; a character of several tokens is in the last one's piece
    surprisal: list[float | None]  # nats; None if it is infinite
    policy: list[Literal[0, 1]]  # 0 if a tool wrote the token; its advantage is 0 then
    spans: list[Span]

    @model_validator(mode="after")
    def _lengths_agree(self) -> "Response":
        T = len(self.tokens)
        if not len(self.pieces) == len(self.surprisal) == len(self.policy) == T:
            raise ValueError(f"pieces, surprisal and policy must have one entry for each of {T} tokens")
        for span in self.spans:
            if not span.start <= span.end <= T:
                raise ValueError(f"span {span.start}..{span.end} is not within the response's {T} tokens")
        return self


class Prompt(_Line):
    """A prompt of the step, with LEAF's tree of its responses."""

    prompt: str  # text that the model read, without special tokens
    data_source: Any
    reference: Any
    audio: list[str | None]  # a path per clip, relative to the traces; None if the data contains samples and no file
    root_value: Real  # V0
    boundaries: list[Boundary]
    nodes: list[Node]
    responses: Annotated[list[Response], Field(min_length=1)]

    @model_validator(mode="after")
    def _indices_exist(self) -> "Prompt":
        for boundary in self.boundaries:
            self._expect("response", boundary.response, len(self.responses))
            self._expect("token", boundary.position, len(self.responses[boundary.response].tokens))
        for node in self.nodes:
            self._expect("boundary", node.boundary, len(self.boundaries))
            self._expect("response", max(node.responses), len(self.responses))
        for response in self.responses:
            for span in response.spans:
                if span.node is not None:
                    self._expect("node", span.node, len(self.nodes))
        return self

    @staticmethod
    def _expect(kind: str, index: int, count: int) -> None:
        if index >= count:
            raise ValueError(f"there is no {kind} {index}, only {count}")

    def fired(self, boundary: int) -> bool:
        """Return whether a selected boundary has a node."""
        return any(node.boundary == boundary for node in self.nodes)

    def usable(self, boundary: int) -> bool:
        """Return whether a selected boundary has a node whose rewards differ."""
        return any(node.boundary == boundary and self.spread(node) > 0 for node in self.nodes)

    def spread(self, node: Node) -> float:
        """Return the highest minus the lowest reward of a node's responses."""
        rewards = [self.responses[index].reward for index in node.responses]
        return max(rewards) - min(rewards)
