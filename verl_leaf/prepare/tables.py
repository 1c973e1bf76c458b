"""Readers of tables as programs and people write them: delimited text, JSON and parquet.

A reader yields ``(place, row)`` for every row. The place names file and line; the row is a dictionary, or the reason why it
cannot be read. An error that makes the whole file unreliable, such as a wrong encoding or a missing quotation mark, is a
ValueError.
"""

import codecs
import csv
import gzip
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from verl_leaf.data.parquet import RowFile

Rows = Iterator[tuple[str, dict | str]]

BYTE_ORDER_MARKS = (  # UTF-32 before UTF-16, whose marks are prefixes
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
DELIMITERS = (",", ";", "\t", "|")
READ_OVER = 256  # reading over this many rows is faster than starting the row group again
LONGEST_TEXT = 2**31 - 1  # characters; csv's default limit is 128 KiB


def check_names(file: Path, names: list[str], needed: Collection[str]) -> None:
    """Raise ValueError unless a table has each needed column exactly once."""
    if missing := [name for name in needed if name not in names]:
        raise ValueError(
            f"{file}: there is no column {', '.join(missing)}. The columns are {', '.join(names) or 'none':.1000}"
        )
    if twice := [name for name in needed if names.count(name) > 1]:
        raise ValueError(f"{file}: the column {twice[0]} occurs {names.count(twice[0])} times. Rename all but one")


def read_lines(file: Path, newline: str = "\n") -> Iterator[str]:
    """Yield the lines of a UTF-8 text, or of a UTF-16 or UTF-32 text with a byte order mark; the file may be gzipped.

    The line end is as in :func:`open`; if it is empty, each of ``\\n``, ``\\r`` and ``\\r\\n``.

    Raises:
        ValueError: the file cannot be read, has another encoding, or contains NUL. The message names file and line.
    """
    opener = gzip.open if file.suffix == ".gz" else open
    encoding = "utf-8"
    try:
        with opener(file, "rb") as data:
            head = data.read(4)
        encoding = next((name for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), encoding)
        with opener(file, "rt", encoding=encoding, newline=newline) as lines:
            for number, line in enumerate(lines, start=1):
                if "\0" in line:
                    raise ValueError(
                        f"{file}, line {number}: there is a NUL character, as in a damaged file or in UTF-16 without a byte "
                        "order mark. Save the file as UTF-8"
                    )
                yield line
    except UnicodeError as error:
        raise ValueError(_wrong_encoding(file, opener, encoding)) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} cannot be read ({error}). Get it again, or check its permissions") from error


def _wrong_encoding(file: Path, opener, encoding: str) -> str:
    if encoding in ("utf-8", "utf-8-sig"):
        with opener(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    near = line[max(0, error.start - 20) : error.start + 20].decode("cp1252", "replace").strip()
                    return (
                        f"{file}, line {number}: this is not UTF-8 (near {near!r}, if read as Windows-1252). Save the file "
                        "as UTF-8, in Excel as 'CSV UTF-8'"
                    )
    return f"{file} begins like {encoding.upper()} but is cut off or damaged. Save it as UTF-8"


def read_delimited(file: Path, needed: Collection[str]) -> Rows:
    """Yield the rows of a table delimited by comma, semicolon, tab or bar: whichever gives the needed columns.

    Quotation marks are as in RFC 4180. Excel's first line ``sep=;`` is understood, spaces around names and texts are
    removed, and empty lines are skipped.

    Raises:
        ValueError: a column is missing, or quotation marks do not match. The message names file and line.
    """
    lines = read_lines(file, newline="")
    first, number = next(lines, ""), 1
    announced = re.fullmatch(r'"?sep=(.)"?\s*', first)
    if announced:
        first, number = next(lines, ""), 2
    while first and not first.strip():
        first, number = next(lines, ""), number + 1
    if not first:
        raise ValueError(f"{file} is empty")
    delimiter = announced[1] if announced else _delimiter(first, needed)
    records = _records(file, itertools.chain([first], lines), delimiter, number)
    _, names = next(records)
    check_names(file, names, needed)
    for line, fields in records:
        place = f"{file.name}, line {line}"
        if not any(fields):
            if len(fields) > 1:
                yield place, "it is empty"
        elif len(fields) != len(names):
            if any(re.search(r"[\r\n]", field) for field in fields):  # so it may be more than one row
                raise ValueError(
                    f"{file}, line {line}: {_ragged(fields, names)}, and a text in quotation marks continues over lines. Add "
                    "the missing quotation mark, or double one within a text"
                )
            yield place, _ragged(fields, names) + f". A text that contains {delimiter!r} needs quotation marks"
        else:
            yield place, dict(zip(names, fields, strict=True))


def _delimiter(header: str, needed: Collection[str]) -> str:
    """Return the delimiter that finds the most needed columns, and among equals the most columns."""

    def match(delimiter: str) -> tuple[int, int]:
        fields = next(_fields(csv.reader([header], delimiter=delimiter, skipinitialspace=True)))
        names = [name.strip() for name in fields]
        return len(set(needed) & set(names)), len(names)

    return max(DELIMITERS, key=match)


def _records(file: Path, lines: Iterator[str], delimiter: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a delimited table, each with the number of its first line; ``first`` is that of the first."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    begins = first
    try:
        for fields in _fields(reader):
            yield begins, [field.strip() for field in fields]
            begins = first + reader.line_num
    except csv.Error as error:
        raise ValueError(
            f"{file}, line {begins}: {error}. Put a text that contains a quotation mark, a line break or {delimiter!r} in "
            "quotation marks, and double those within it"
        ) from error


def _fields(reader) -> Iterator[list[str]]:
    """Yield the records of a csv reader. The limit of a field, which is global in a process, is raised only while reading."""
    while True:
        limit = csv.field_size_limit(LONGEST_TEXT)
        try:
            fields = next(reader, None)
        finally:
            csv.field_size_limit(limit)
        if fields is None:
            return
        yield fields


def _ragged(fields: list[str], names: list[str]) -> str:
    return f"there are {len(fields)} fields, but the header has {len(names)}"


def read_lines_of_fields(file: Path, needed: Collection[str], delimiter: str, escape: str | None = None) -> Rows:
    """Yield the rows of a table without quotation marks: each line is a row.

    After ``escape``, a delimiter, a quotation mark or the escape itself stands for itself.
    """
    names: list[str] | None = None
    empty = True
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            text = [line.rstrip("\r\n")]
            (fields,) = _fields(csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE, escapechar=escape))
        except csv.Error as error:
            fields = [str(error)]
        if names is None:
            names = [name.strip() for name in fields]
            check_names(file, names, needed)
            continue
        empty = False
        row = dict(zip(names, fields, strict=True)) if len(fields) == len(names) else _ragged(fields, names)
        yield f"{file.name}, line {number}", row
    if empty:
        raise ValueError(f"{file} contains no rows")


def read_json(file: Path) -> Rows:
    """Yield the objects of a JSON array or of JSON lines; raise ValueError if something is not JSON or there are no objects."""
    empty = True
    for place, value in _json_values(file):
        empty = False
        row = value if isinstance(value, dict) else f"it is not an object but {str(value)[:40]!r}"
        yield f"{file.name}, {place}", row
    if empty:
        raise ValueError(f"{file} contains no rows")


def _json_values(file: Path) -> Iterator[tuple[str, object]]:
    first = next((line for line in read_lines(file) if line.strip()), "")
    if first.lstrip().startswith("["):
        for number, value in enumerate(_parse(str(file), "".join(read_lines(file)))):
            yield f"record {number}", value
    else:
        for number, line in enumerate(read_lines(file), start=1):
            if line.strip():
                yield f"line {number}", _parse(f"{file}, line {number}", line)


def _parse(place: str, text: str):
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{place}: {error}. The file must be a JSON array of objects, or have one object per line"
        ) from error


def _object(pairs: list[tuple[str, object]]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):  # a file may be one object with a key per clip, so this is checked first
        (name, count), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {name!r} occurs {count} times in an object")
    return content


def read_parquet(file: Path, needed: Collection[str], optional: Collection[str] = ()) -> Iterator[tuple[str, dict]]:
    """Yield the rows of a parquet file with some columns; raise ValueError if it cannot be read or lacks a needed column."""
    table = RowFile(file)
    check_names(file, table.columns, needed)
    for number, row in table.rows(columns=[*needed, *optional]):
        yield f"{file.name}, row {number}", row


class ParquetColumn:
    """The values of a column of a parquet file by row; the file is read once if the rows are in ascending order."""

    def __init__(self, file: Path, name: str):
        self._file, self._name = RowFile(file), name
        self._row, self._value = len(self._file), None  # last row that was read; none yet
        self._rows: Iterator[tuple[int, dict]] = iter(())

    def __getitem__(self, row: int):
        """Return the value in a row; raise ValueError if the file is damaged there."""
        if self._row <= row <= self._row + READ_OVER:
            try:
                return self._advance(row)
            except ValueError:  # the error may be in an earlier row
                pass
        self._row = len(self._file)  # nothing counts as read if this fails
        self._rows = self._file.rows(range(row, len(self._file)), [self._name])
        return self._advance(row)

    def _advance(self, row: int):
        while self._row != row:
            self._row, values = next(self._rows)
            self._value = values[self._name]
        return self._value
