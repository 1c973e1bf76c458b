"""The file of a system's answers: one line per answer, written to disk before the next is generated."""

import json
from pathlib import Path

from verl_leaf.common.answers import Answer, Key
from verl_leaf.common.files import LineStore, read_json, write_file


class AnswerFile(LineStore[Key, Answer]):
    """The answers of one system, ``NAME.jsonl``, with ``NAME.made_of.json``, which records what they depend on.

    Raises:
        ValueError: the file contains answers with another ``made_of``, or an invalid line.
    """

    def __init__(self, path: Path, made_of: dict):
        record(path, made_of, "answers")
        super().__init__(path, _keyed, "answer")

    def missing(self, rows: int, passes: int) -> list[Key]:
        """Return the answers that are missing or have failed, row by row."""
        keys = [(row, sample) for row in range(rows) for sample in range(passes)]
        return [key for key in keys if key not in self.values or self.values[key].finish == "failed"]


def record(path: Path, made_of: dict, what: str) -> None:
    """Write beside a file, as ``NAME.made_of.json``, what its lines depend on.

    Raises:
        ValueError: the file already contains lines with another ``made_of``.
    """
    file = path.with_suffix(".made_of.json")
    if path.exists():
        before = read_json(file, dict)
        if not before:
            raise ValueError(
                f"{path}: it is unknown what made these {what}, because {file.name} is missing. Delete the file"
            )
        changed = sorted(key for key in before.keys() | made_of.keys() if before.get(key) != made_of.get(key))
        if changed:
            raise ValueError(
                f"{path} contains {what} that were made with another {' and '.join(changed)} "
                f"({'; '.join(f'{key}: {before.get(key)!r}, now {made_of.get(key)!r}' for key in changed)}). "
                "Choose another --out, or delete the file"
            )
    write_file(file, json.dumps(made_of, indent=1, ensure_ascii=False))


def _keyed(values: dict) -> tuple[Key, Answer]:
    answer = Answer.from_dict(values)
    return (answer.row, answer.sample), answer
