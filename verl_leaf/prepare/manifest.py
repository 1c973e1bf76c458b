"""Your own table: CSV or TSV, JSON or JSON lines, or parquet, with columns for audio, question and answer.

Several audios or answers of a row are a list (in CSV, a JSON list). A question that contains <audio> is the whole prompt.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.references import absolute_audio
from verl_leaf.prepare.corpus import SPLITS, Corpus, Item, Rejected, Segment, hashed_split, need, text_of
from verl_leaf.prepare.tables import Rows, check_names, read_delimited, read_json, read_parquet

HELP = "your own CSV, JSON or parquet file"
PHRASINGS = (f"{PLACEHOLDER}\n{{question}}",)
NEEDED, OPTIONAL = ("audio", "question", "answer"), ("id", "split")
DELIMITED, JSON, PARQUET = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson", ".json"), (".parquet",)
SUFFIXES = (*DELIMITED, *JSON, *PARQUET)


def add_arguments(parser) -> None:
    add = parser.add_argument
    add("file", type=Path, help=f"table with one row per question: {', '.join(SUFFIXES)}")
    add("--name", help="data_source of the rows (default: the file's name)")
    add("--audio-root", type=Path, help="folder from which relative paths start (default: the file's folder)")
    for column in NEEDED + OPTIONAL:
        add(f"--{column}-column", default=column, help=f"column of the {column} (default: %(default)s)")
    add(
        "--held-out",
        type=float,
        default=0.1,
        help="share for validation and again for test, if no column states the split (default: %(default)s)",
    )


def read(options) -> Corpus:
    file = need(options.file, f"a table: {', '.join(SUFFIXES)}", "file")
    check_held_out(options.held_out)
    columns = {name: getattr(options, f"{name}_column") for name in NEEDED + OPTIONAL}
    corpus = Corpus(options.name or file.stem, PHRASINGS)
    # A column that an option names must exist.
    needed = [column for name, column in columns.items() if name in NEEDED or column != name]
    rows = table_rows(file, needed, (columns["audio"], columns["answer"]), [*columns.values()])
    for number, (place, row) in enumerate(rows):
        if isinstance(row, str):
            corpus.add(Rejected(str(number), place, row))
        else:
            cells = {name: row.get(column) for name, column in columns.items()}
            corpus.add(_item(cells, number, place, options))
    if not corpus.items and not corpus.rejected:
        raise ValueError(f"{file} contains no rows")
    if options.held_out:
        empty = [split for split in SPLITS if split not in {item.split for item in corpus.items}]
        corpus.notes += [f"No row is for {split}. A column split, or a larger --held-out, adds some" for split in empty]
    return corpus


def table_rows(file: Path, needed: Sequence[str], lists: Sequence[str], optional: Sequence[str] | None = None) -> Rows:
    """Yield the rows of a table. In delimited text, the cells of some columns may be JSON lists.

    Args:
        file: CSV, JSON or parquet file, recognised by its suffix.
        needed: columns that must exist.
        lists: columns whose cells may be lists, the audio's first.
        optional: further columns to read of a parquet file, or None for all.

    Raises:
        ValueError: the file cannot be read, or lacks a column.
    """
    kind = file.suffix.lower()
    if kind in DELIMITED:
        for place, row in read_delimited(file, needed):
            if isinstance(row, dict):
                if lists[0] in row:
                    _check_quotes(row, lists[0], f"{file}, {place.removeprefix(f'{file.name}, ')}")
                row = _with_lists(row, [column for column in lists if column in row])
            yield place, row
    elif kind in PARQUET:
        others = RowFile(file).columns if optional is None else optional
        yield from read_parquet(file, needed, [column for column in others if column not in needed])
    elif kind in JSON:
        names: dict[str, None] = {}
        for place, row in read_json(file):
            names |= dict.fromkeys(row if isinstance(row, dict) else ())
            yield place, row
        if names:
            check_names(file, [*names], needed)
    else:
        raise ValueError(
            f"{file}: the name must end in one of {', '.join(SUFFIXES)}. Save a spreadsheet as 'CSV UTF-8'"
        )


def _check_quotes(row: dict, audio_column: str, place: str) -> None:
    """Raise ValueError if a text over several lines contains what looks like another row's audio.

    A missing closing quotation mark swallows the following rows.
    """
    suffix = os.path.splitext(row[audio_column])[1]
    over_lines = [text for text in row.values() if re.search(r"[\r\n]", text)]
    pieces = [piece.strip() for text in over_lines for piece in re.split(r"[,;|\t\r\n]", text)]
    swallowed = [piece for piece in pieces if suffix and piece.endswith(suffix)]
    if swallowed:
        raise ValueError(
            f"{place}: a text in quotation marks begins here and continues to {swallowed[0]!r}, another row's audio. Add the "
            "missing quotation mark, or double one within a text"
        )


def _with_lists(row: dict, columns: Sequence[str]) -> dict | str:
    """Return the row with JSON lists parsed, or what is wrong if a list is in Python's notation."""
    lists = {}
    for column in columns:
        if row[column].startswith("["):
            try:
                lists[column] = json.loads(row[column])
            except (ValueError, RecursionError):
                if re.match(r"\[\s*['\"]", row[column]):
                    return f'{column} looks like a list but is not valid JSON. Write ["a", "b"]'
    return row | lists


def _item(cells: dict, number: int, place: str, options) -> Item | Rejected:
    id = str(number)
    try:
        given_id = text_of(cells["id"], "id")
        id = given_id or id
        parts = _several(cells["audio"], "audio")
        audios = tuple((_segment(audio, number, part, options),) for part, audio in parts)
        answers = tuple(text_of(answer, "answer") for _, answer in _several(cells["answer"], "answer"))
        question, split = text_of(cells["question"], "question"), text_of(cells["split"], "split")
        if not question:
            raise ValueError("it has no question")
        if not all(answers):
            raise ValueError(f"answer {answers.index('')} of {len(answers)} is empty")
        if split not in ("", *SPLITS):
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    except ValueError as error:
        return Rejected(id, place, str(error))
    # All questions about a clip are in one split.
    clip = audio_path(parts[0][1]) if audios[0][0].row is None else id
    split = split or hashed_split(clip, options.held_out)
    return Item(id, split, audios, answers, question, source=place, numbered=not given_id)


def _several(cell, what: str) -> list[tuple[int | None, object]]:
    """Return a cell's values, each with its index if the cell is a list; raise ValueError if there is none."""
    values: list[tuple[int | None, object]] = [*enumerate(cell)] if isinstance(cell, list) else [(None, cell)]
    if not values or (isinstance(cell, str | float | None) and not text_of(cell, what)):
        raise ValueError(f"it has no {what}")
    return values


def check_held_out(share: float) -> None:
    """Raise ValueError unless a share can be held out for validation and again for test."""
    if not 0 <= share < 0.5:
        raise ValueError(f"--held-out {share}: it must be from 0 to below 0.5, because it is held out twice")


def embedded_audio(cell, file: Path, row: int, column: str, part: int | None = None) -> Segment | None:
    """Return an audio inside the table, given as bytes or an ``Audio`` dictionary; None if the cell names a file."""
    if isinstance(cell, bytes) or (isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes)):
        return Segment(str(file), row=row, column=column, part=part)
    return None


def audio_path(cell) -> str:
    """Return the path in a cell; raise ValueError if there is none."""
    path = cell.get("path") if isinstance(cell, dict) else cell
    if not isinstance(path, str) or not text_of(path, "audio"):
        raise ValueError(f"an audio is of the type {type(path).__name__}, not a path or, in a parquet file, bytes")
    return text_of(path, "audio")


def _segment(audio, row: int, part: int | None, options) -> Segment:
    """Return the segment of an audio, given by path or inside the table."""
    inside = embedded_audio(audio, options.file, row, options.audio_column, part)
    return inside or Segment(absolute_audio(audio_path(audio), str(options.audio_root or options.file.parent)))
