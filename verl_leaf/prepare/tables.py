"""Tables as programs and people write them: delimited text, JSON and parquet.

A reader yields ``(place, row)`` for every row: the place names file and line, the row is a dictionary, or the reason why
there is none. What makes the whole file doubtful (an encoding, a quotation mark that is never closed) is a ValueError.
"""

import codecs
import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from verl_leaf.data.parquet import RowFile

Rows = Iterator[tuple[str, dict | str]]

BYTE_ORDER_MARKS = (  # that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
DELIMITERS = (",", ";", "\t", "|")
READ_OVER = 256  # rows of a parquet file that are rather read for nothing than that its row group is begun anew
LONGEST_TEXT = 2**31 - 1  # characters; csv's own limit is 128 KiB


def check_names(file: Path, names: list[str], needed: Collection[str]) -> None:
    """Raise ValueError unless a table has the columns that are needed, each of them once."""
    if missing := [name for name in needed if name not in names]:
        raise ValueError(f"{file}: no column {', '.join(missing)}; it has {', '.join(names) or 'none'}")
    if twice := [name for name in needed if names.count(name) > 1]:
        raise ValueError(
            f"{file}: the column {twice[0]} occurs {names.count(twice[0])} times; name one of them otherwise"
        )


def read_lines(file: Path, newline: str = "\n") -> Iterator[str]:
    """Yield the lines of a text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, which may be a gzip file.

    Args:
        file: to read.
        newline: as of :func:`open`: what ends a line, each of ``\\n``, ``\\r`` and ``\\r\\n`` if empty.

    Raises:
        ValueError: it cannot be read, is in another encoding, or holds NUL; file and line are named.
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
                        f"{file}, line {number}: holds a NUL character, as a damaged file does or UTF-16 without a "
                        "byte order mark; save it as UTF-8"
                    )
                yield line
    except UnicodeError as error:
        raise ValueError(_wrong_encoding(file, opener, encoding)) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: cannot be read ({error}); get it again, or see who may read it") from error


def _wrong_encoding(file: Path, opener, encoding: str) -> str:
    if encoding in ("utf-8", "utf-8-sig"):
        with opener(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    near = line[max(0, error.start - 20) : error.start + 20].decode("cp1252", "replace").strip()
                    return (
                        f"{file}, line {number}: is not UTF-8 (near {near!r}, were it Windows-1252); save it as UTF-8, "
                        "in Excel as 'CSV UTF-8'"
                    )
    return f"{file}: begins as {encoding.upper()} but is not; it is cut off or damaged, save it as UTF-8"


def read_delimited(file: Path, needed: Collection[str]) -> Rows:
    """Yield the rows of a table delimited by comma, semicolon, tab or bar: whichever gives the columns that are needed.

    Quotation marks are as in RFC 4180. Excel's first line ``sep=;`` is understood, spaces around names and texts are
    not part of them, empty lines are no rows.

    Raises:
        ValueError: a column is not there, or quotation marks do not match; the message names file and line.
    """
    lines = read_lines(file, newline="")
    first, number = next(lines, ""), 1
    announced = re.fullmatch(r'"?sep=(.)"?\s*', first)
    if announced:
        first, number = next(lines, ""), 2
    while first and not first.strip():
        first, number = next(lines, ""), number + 1
    if not first:
        raise ValueError(f"{file}: is empty")
    delimiter = announced[1] if announced else _delimiter(first, needed)
    records = _records(file, itertools.chain([first], lines), delimiter, number)
    _, names = next(records)
    check_names(file, names, needed)
    for line, fields in records:
        place = f"{file.name}, line {line}"
        if not any(fields):
            if len(fields) > 1:
                yield place, "is empty"
        elif len(fields) != len(names):
            if any(re.search(r"[\r\n]", field) for field in fields):  # and thus more rows than one, perhaps
                raise ValueError(
                    f"{file}, line {line}: {_ragged(fields, names)}, and a text in quotation marks runs over lines; one "
                    "of the quotation marks is missing or not doubled"
                )
            yield place, _ragged(fields, names) + f"; a text that holds {delimiter!r} stands in quotation marks"
        else:
            yield place, dict(zip(names, fields, strict=True))


def _delimiter(header: str, needed: Collection[str]) -> str:
    """The delimiter that finds the most of the columns that are needed, then the most columns."""

    def found(delimiter: str) -> tuple[int, int]:
        fields = next(_fields(csv.reader([header], delimiter=delimiter, skipinitialspace=True)))
        names = [name.strip() for name in fields]
        return len(set(needed) & set(names)), len(names)

    return max(DELIMITERS, key=found)


def _records(file: Path, lines: Iterator[str], delimiter: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Records of a delimited table, each with the number of the line it begins in; ``first`` is that of the first."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    begins = first
    try:
        for fields in _fields(reader):
            yield begins, [field.strip() for field in fields]
            begins = first + reader.line_num
    except csv.Error as error:
        raise ValueError(
            f"{file}, line {begins}: {error}; a text with a quotation mark, a line break or {delimiter!r} in it stands "
            "in quotation marks, and those within are doubled"
        ) from error


def _fields(reader) -> Iterator[list[str]]:
    """Records of a reader of csv, whose limit, one for the whole process, is raised while a record is read."""
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
    return f"the number of fields is {len(fields)}, the header has {len(names)}"


def read_lines_of_fields(file: Path, needed: Collection[str], delimiter: str, escape: str | None = None) -> Rows:
    """Yield the rows of a table that knows no quotation marks: a line is a row, whatever its texts hold.

    ``escape`` comes before a delimiter, a quotation mark or itself that stands for itself.
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
        raise ValueError(f"{file}: holds no rows")


def read_json(file: Path) -> Rows:
    """Yield the objects of a JSON array, or of JSON lines; raise ValueError if something is not JSON or nothing is there."""
    empty = True
    for place, value in _json_values(file):
        empty = False
        yield f"{file.name}, {place}", value if isinstance(value, dict) else f"is no object but {str(value)[:40]!r}"
    if empty:
        raise ValueError(f"{file}: holds no rows")


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
        raise ValueError(f"{place}: {error}; wanted are a JSON array of objects, or one object per line") from error


def _object(pairs: list[tuple[str, object]]) -> dict:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the key {twice[0]!r} occurs {names.count(twice[0])} times in an object")
    return dict(pairs)


def read_parquet(file: Path, needed: Collection[str], optional: Collection[str] = ()) -> Iterator[tuple[str, dict]]:
    """Yield the rows of a parquet file with some columns; raise ValueError if it cannot be read or lacks a needed one."""
    table = RowFile(file)
    check_names(file, table.columns, needed)
    for number, row in table.rows(columns=[*needed, *optional]):
        yield f"{file.name}, row {number}", row


class ParquetColumn:
    """The values of one column of a parquet file by row, which is read once if they are asked for in ascending order."""

    def __init__(self, file: Path, name: str):
        self._file, self._name = RowFile(file), name
        self._row, self._value = len(self._file), None  # that was read last; none yet
        self._rows: Iterator[tuple[int, dict]] = iter(())

    def __getitem__(self, row: int):
        """Return the value in a row; raise ValueError if the file is damaged there."""
        if self._row <= row <= self._row + READ_OVER:
            try:
                return self._advance(row)
            except ValueError:  # it may be of a row before this one
                pass
        self._row = len(self._file)  # nothing is read, should this fail
        self._rows = self._file.rows(range(row, len(self._file)), [self._name])
        return self._advance(row)

    def _advance(self, row: int):
        while self._row != row:
            self._row, values = next(self._rows)
            self._value = values[self._name]
        return self._value
