"""Models' answers to the rows of a data set, and the files that contain them: one JSON object per line."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from verl_leaf.common.errors import errors_at
from verl_leaf.common.files import json_lines

Finish = Literal["stop", "length", "failed"]
Key = tuple[int, int]  # row and sample of an answer


@dataclass(frozen=True)
class Answer:
    """A system's answer to a row, with everything that scoring needs."""

    row: int  # number of the row in its data set, starting at 0
    sample: int  # number of the pass, starting at 0; each pass answers every row once
    data_source: str  # data source of the row
    question: str  # text of the prompt, without audio placeholders
    references: tuple[str, ...]  # correct answers, one or more
    audio: tuple[str, ...]  # name or digest of each clip of the prompt; rows with the same clips form one cluster
    text: str  # the answer; empty if generating failed
    # "stop" if the model ended the answer, "length" if it reached the token limit, "failed" if generating failed.
    finish: Finish = "stop"
    seed: int | None = None  # sampling seed, or None if unknown or greedy
    error: str | None = None  # reason of a failure
    choices: tuple[str, ...] = ()  # options of a multiple-choice question, in the order of their letters
    # Labels of the row, if it has them.
    category: str = ""
    difficulty: str = ""

    def to_json(self) -> str:
        """Return one line of JSON, without a line end."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Answer":
        """Return the answer that a parsed line of ``to_json`` describes.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**values | {name: tuple(values[name]) for name in ("references", "audio", "choices")})


@dataclass(frozen=True)
class Row:
    """The part of a row that scoring needs; the fields are those of :class:`Answer`."""

    row: int
    data_source: str
    question: str
    references: tuple[str, ...]
    audio: tuple[str, ...]
    choices: tuple[str, ...] = ()
    category: str = ""
    difficulty: str = ""

    def answer(self, sample: int, text: str, **others) -> Answer:
        """Return an answer to this row."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Answer(**fields, sample=sample, text=text, **others)


def read_answers(path: Path, rows: Mapping[int, Row]) -> dict[Key, Answer]:
    """Read a file of answers: one JSON object per line, with ``row`` and ``text``.

    If a line lacks them, ``sample`` is 0 and ``finish`` is ``stop``. The other fields come from the row. If a line contains
    ``references`` or ``data_source``, they must be those of the row.

    Raises:
        ValueError: the file cannot be read, or a line is not an answer to a row or answers a row twice. The message names
            file, line and value.
    """
    answers: dict[Key, Answer] = {}
    for number, values in json_lines(path):
        with errors_at(f"{path}, line {number}"):
            answer = _answer(values, rows)
            if (answer.row, answer.sample) in answers:
                raise ValueError(f"row {answer.row}, sample {answer.sample} occurs twice. Delete one of them")
        answers[answer.row, answer.sample] = answer
    if not answers:
        raise ValueError(f"{path} contains no answers")
    return answers


def _answer(values: Any, rows: Mapping[int, Row]) -> Answer:
    if not isinstance(values, dict):
        raise ValueError(f"{values!r:.80} is not a JSON object with row and text")
    number, sample, text = values.get("row"), values.get("sample", 0), values.get("text")
    if type(number) is not int or number not in rows:
        raise ValueError(f"row is {number!r:.80}. It must be a number from 0 to {len(rows) - 1}, as in --data")
    if type(sample) is not int or sample < 0:
        raise ValueError(f"sample is {sample!r:.80}. It must be 0 or a larger number")
    if not isinstance(text, str):
        raise ValueError(f"text is {text!r:.80}. It must be a string with the answer")
    row = rows[number]
    if (references := values.get("references")) is not None and references != list(row.references):
        raise ValueError(f"its references are not those of row {number} of --data. The answers belong to other data")
    if (source := values.get("data_source", row.data_source)) != row.data_source:
        raise ValueError(f"its data_source is {source!r:.80}, but that of row {number} of --data is {row.data_source}")
    finish = values.get("finish", "stop")
    if finish not in ("stop", "length", "failed"):
        raise ValueError(f"finish is {finish!r:.80}. It must be stop, length or failed")
    return row.answer(sample, text, finish=finish)
