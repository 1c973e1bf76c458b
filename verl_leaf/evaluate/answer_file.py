"""The file of a system's answers: a line per answer, which is on disk before the next is generated."""

import json
from pathlib import Path

from verl_leaf.common.answers import Answer, Key
from verl_leaf.common.files import LineStore, read_json, write_file


class AnswerFile(LineStore[Key, Answer]):
    """The answers of one system: ``NAME.jsonl``, and beside it ``NAME.made_of.json``, which says what made them.

    Args:
        path: of the answers.
        made_of: everything that they depend on.

    Raises:
        ValueError: the file holds answers that something else has made, or a line that is no answer.
    """

    def __init__(self, path: Path, made_of: dict):
        record(path, made_of, "answers")
        super().__init__(path, _keyed, "answer")

    def missing(self, rows: int, passes: int) -> list[Key]:
        """Return the answers that are not there, or have failed, row by row."""
        keys = [(row, sample) for row in range(rows) for sample in range(passes)]
        return [key for key in keys if key not in self.values or self.values[key].finish == "failed"]


def record(path: Path, made_of: dict, what: str) -> None:
    """Write what the lines of a file depend on beside it, as ``NAME.made_of.json``.

    Raises:
        ValueError: the file has lines already, and something else has made them.
    """
    file = path.with_suffix(".made_of.json")
    if path.exists():
        _check(path, file, made_of, what)
    write_file(file, json.dumps(made_of, indent=1, ensure_ascii=False))


def _check(path: Path, record: Path, made_of: dict, what: str) -> None:
    """Stop unless the record says that the same things made the lines."""
    before = read_json(record, dict)
    if not before:
        raise ValueError(f"{path}: nothing says what made these {what}: delete it")
    changed = sorted(key for key in before.keys() | made_of.keys() if before.get(key) != made_of.get(key))
    if changed:
        raise ValueError(
            f"{path} holds {what} that were made with another {' and '.join(changed)} "
            f"({'; '.join(f'{key}: {before.get(key)!r}, now {made_of.get(key)!r}' for key in changed)}): "
            "choose another --out, or delete it"
        )


def _keyed(values: dict) -> tuple[Key, Answer]:
    answer = Answer.from_dict(values)
    return (answer.row, answer.sample), answer
