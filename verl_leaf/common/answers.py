"""Answers of models to the rows of a data set, and the files that hold them: one JSON object per line."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from verl_leaf.common.files import json_lines

Finish = Literal["stop", "length", "failed"]
Key = tuple[int, int]  # row and sample of an answer


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
        choices: of a question with choices, in the order of their letters.
        category, difficulty: of the row, if it has them.
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
    choices: tuple[str, ...] = ()
    category: str = ""
    difficulty: str = ""

    def to_json(self) -> str:
        """One line, without its end."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Answer":
        """Of a line that ``to_json`` wrote, parsed.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**values | {name: tuple(values[name]) for name in ("references", "audio", "choices")})


@dataclass(frozen=True)
class Row:
    """The part of a row that its answers are scored with; the fields are those of :class:`Answer`."""

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
    """Read a file of answers, made here or elsewhere: one JSON object per line, with ``row`` and ``text``.

    ``sample`` is 0 and ``finish`` is ``stop`` if a line does not have them. The rest comes from the row; if a line has the
    row's ``references`` or ``data_source``, they must be the same.

    Args:
        path: of the file.
        rows: of the data, by their number.

    Raises:
        ValueError: the file cannot be read, a line is not an answer to a row, or answers a row twice; file, line and value
            are named.
    """
    answers: dict[Key, Answer] = {}
    for number, values in json_lines(path):
        try:
            answer = _answer(values, rows)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if (answer.row, answer.sample) in answers:
            raise ValueError(f"{path}, line {number}: row {answer.row}, sample {answer.sample} is there twice")
        answers[answer.row, answer.sample] = answer
    if not answers:
        raise ValueError(f"{path}: holds no answers")
    return answers


def _answer(values: Any, rows: Mapping[int, Row]) -> Answer:
    if not isinstance(values, dict):
        raise ValueError(f"{values!r:.80} is not an object with row and text")
    number, sample, text = values.get("row"), values.get("sample", 0), values.get("text")
    if type(number) is not int or number not in rows:
        raise ValueError(f"row is {number!r:.80}; it must be a number from 0 to {len(rows) - 1}, of the --data")
    if type(sample) is not int or sample < 0:
        raise ValueError(f"sample is {sample!r:.80}; it must be a number from 0 on")
    if not isinstance(text, str):
        raise ValueError(f"text is {text!r:.80}; it must be the answer")
    row = rows[number]
    if (references := values.get("references")) is not None and references != list(row.references):
        raise ValueError(f"its references are not those of row {number} of the --data: it answers other data")
    if (source := values.get("data_source", row.data_source)) != row.data_source:
        raise ValueError(f"it answers {source!r:.80}, but row {number} of the --data is of {row.data_source}")
    finish = values.get("finish", "stop")
    if finish not in ("stop", "length", "failed"):
        raise ValueError(f"finish is {finish!r:.80}; it must be stop, length or failed")
    return row.answer(sample, text, finish=finish)
