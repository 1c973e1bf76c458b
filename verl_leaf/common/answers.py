"""One answer of a model to one row of a data set, as files of answers hold it: a JSON object a line."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

Finish = Literal["stop", "length", "failed"]


@dataclass(frozen=True)
class Answer:
    """What a system answered, with all that scoring it needs.

    Attributes:
        row: number of the row in its data set, from 0.
        sample: which of the answers to this row, from 0 (the pass).
        data_source: of the row.
        question: text of the prompt, without markers of audio.
        references: the right answers, one or more.
        audio: name or digest of each clip of the prompt; rows with the same are scored as one cluster.
        text: the answer; empty where generating failed.
        finish: the model ended it, or the limit of tokens did, or it failed.
        seed: of its sampling; None where unknown or greedy.
        error: why it failed.
    """

    row: int
    sample: int
    data_source: str
    question: str
    references: tuple[str, ...]
    audio: tuple[str, ...]
    text: str
    finish: Finish = "stop"
    seed: int | None = None
    error: str | None = None

    def to_json(self) -> str:
        """One line, without its end."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Answer":
        """Of a line that ``to_json`` wrote, parsed.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**{**values, "references": tuple(values["references"]), "audio": tuple(values["audio"])})
