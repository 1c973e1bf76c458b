"""A table of one's own: CSV, JSONL or parquet with columns for audio, question and answer.

Several audios or answers a row are a list (in CSV, a JSON list). A question that holds <audio> is the whole prompt.
"""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet

from verl_leaf.prepare.corpus import SPLITS, TEST, TRAIN, VALIDATION, Corpus, Item, Rejected, Segment, fraction, need

HELP = "a CSV, JSONL or parquet file of your own"
PHRASINGS = ("<audio>\n{question}",)


def add_arguments(parser) -> None:
    parser.add_argument("file", type=Path, help="table with a row for each question")
    parser.add_argument("--name", help="data_source of the rows (default: the file's name)")
    parser.add_argument("--audio-root", type=Path, help="what relative paths start from (default: the file's folder)")
    for column in ("audio", "question", "answer", "id", "split"):
        parser.add_argument(f"--{column}-column", default=column, help="default: %(default)s")
    parser.add_argument(
        "--held-out", type=float, default=0.1, help="share for validation, and for test, where no column says so (0.1)"
    )


def read(options) -> Corpus:
    need(options.file, "a table of the kind .csv, .jsonl or .parquet")
    root = options.audio_root or options.file.parent
    corpus = Corpus(options.name or options.file.stem, PHRASINGS)
    columns = {name: getattr(options, f"{name}_column") for name in ("audio", "question", "answer", "id", "split")}
    for number, row in enumerate(_rows(options.file)):
        if missing := [columns[name] for name in ("audio", "question", "answer") if columns[name] not in row]:
            raise ValueError(
                f"{options.file}, row {number}: no column {', '.join(missing)}; it has {', '.join(row)}. "
                "--audio-column, --question-column and --answer-column name them"
            )
        corpus.add(_item({name: row.get(column) for name, column in columns.items()}, number, root, options))
    return corpus


def _rows(file: Path) -> Iterator[dict]:
    if file.suffix == ".parquet":
        yield from pyarrow.parquet.read_table(file).to_pylist()
    elif file.suffix == ".csv":
        with open(file, encoding="utf-8-sig", newline="") as lines:
            yield from csv.DictReader(lines)
    elif file.suffix == ".jsonl":
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{file}, line {number}: {error}") from error
    else:
        raise ValueError(f"{file}: its name must end in .csv, .jsonl or .parquet")


def _item(row: dict, number: int, root: Path, options) -> Item | Rejected:
    id, source = str(row["id"] if row["id"] is not None else number), f"{options.file.name}, row {number}"
    paths, answers, split = _several(row["audio"]), _several(row["answer"]), row["split"]
    if not paths or not answers or not row["question"]:
        return Rejected(id, source, "lacks audio, question or answer")
    if split is None:
        share = fraction(id)
        split = TEST if share < options.held_out else VALIDATION if share < 2 * options.held_out else TRAIN
    if split not in SPLITS:
        return Rejected(id, source, f"split {split!r} is none of {', '.join(SPLITS)}")
    audios = tuple((Segment(os.path.join(root, path)),) for path in paths)
    return Item(id, split, audios, answers, str(row["question"]), source=source)


def _several(value) -> tuple[str, ...]:
    """One text or a list of them; a text that is a JSON list is one, too."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            pass
    values = value if isinstance(value, list) else [value]
    return tuple(str(text) for text in values if text not in (None, ""))
