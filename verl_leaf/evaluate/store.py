"""Answers on disk: a line per answer, which is there once it is written, whatever happens next."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from verl_leaf.common.answers import Answer
from verl_leaf.evaluate.data import Row

Key = tuple[int, int]  # row and sample of an answer


class Answers:
    """The answers of one system: ``NAME.jsonl``, and beside it ``NAME.made_of.json``, which says what made them.

    Args:
        path: of the answers.
        made_of: everything that they depend on.

    Raises:
        ValueError: the file holds answers that something else has made, or a line that is no answer.
    """

    def __init__(self, path: Path, made_of: dict):
        self.path = path
        self.found: dict[Key, Answer] = {}
        record = path.with_suffix(".made_of.json")
        if path.exists():
            self._check(record, made_of)
            self._read()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_suffix(".partial")
        temporary.write_text(json.dumps(made_of, indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.replace(record)
        self._file = path.open("a", encoding="utf-8")

    def _check(self, record: Path, made_of: dict) -> None:
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path}: nothing says what made these answers ({error}): delete it") from error
        changed = sorted(key for key in before.keys() | made_of.keys() if before.get(key) != made_of.get(key))
        if changed:
            raise ValueError(
                f"{self.path} holds answers that were made with another {' and '.join(changed)} "
                f"({'; '.join(f'{key}: {before.get(key)!r}, now {made_of.get(key)!r}' for key in changed)}): "
                "choose another --out, or delete it"
            )

    def _read(self) -> None:
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):  # it was being written when the process ended
                    break
                try:
                    answer = Answer.from_dict(json.loads(line))
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(f"{self.path}, line {number}: is no answer ({error}): delete the line") from error
                self.found[answer.row, answer.sample] = answer
                whole += len(line)
        os.truncate(self.path, whole)

    def append(self, answer: Answer) -> None:
        """Keep an answer; it is on disk when this returns."""
        self._file.write(answer.to_json() + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.found[answer.row, answer.sample] = answer

    def close(self) -> None:
        self._file.close()


def read_foreign(path: Path, rows: list[Row]) -> dict[Key, Answer]:
    """Answers that were made elsewhere: a JSON object a line with ``row`` and ``text``.

    ``sample`` is 0 if it is not there; all else is the row's.

    Raises:
        ValueError: the file cannot be read, or a line is no answer to a row, or answers a row twice.
    """
    found: dict[Key, Answer] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        try:
            answer = _foreign(json.loads(line), rows)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if (answer.row, answer.sample) in found:
            raise ValueError(f"{path}, line {number}: row {answer.row}, sample {answer.sample} is there twice")
        found[answer.row, answer.sample] = answer
    if not found:
        raise ValueError(f"{path}: holds no answers")
    return found


def _foreign(values, rows: list[Row]) -> Answer:
    if not isinstance(values, dict):
        raise ValueError(f"{values!r:.80} is not an object with row and text")
    row, sample, text = values.get("row"), values.get("sample", 0), values.get("text")
    if type(row) is not int or not 0 <= row < len(rows):
        raise ValueError(f"row is {row!r:.80}; it must be a number from 0 to {len(rows) - 1}, of the --data")
    if type(sample) is not int or sample < 0:
        raise ValueError(f"sample is {sample!r:.80}; it must be a number from 0 on")
    if not isinstance(text, str):
        raise ValueError(f"text is {text!r:.80}; it must be the answer")
    own, told = rows[row], values.get("references")
    if told is not None and tuple(told) != own.references:
        raise ValueError(f"its references are not those of row {row} of the --data: it answers other data")
    finish = values.get("finish", "stop")
    if finish not in ("stop", "length", "failed"):
        raise ValueError(f"finish is {finish!r:.80}; it must be stop, length or failed")
    return answer_of(own, sample, text, finish=finish)


def answer_of(row: Row, sample: int, text: str, **others) -> Answer:
    """An answer to a row."""
    return Answer(
        row=row.row,
        sample=sample,
        data_source=row.data_source,
        question=row.question,
        references=row.references,
        audio=row.audio,
        text=text,
        **others,
    )


def missing(found: Iterable[Key], rows: int, passes: int) -> list[Key]:
    """The answers that are not there yet, row by row."""
    there = set(found)
    return [(row, sample) for row in range(rows) for sample in range(passes) if (row, sample) not in there]
