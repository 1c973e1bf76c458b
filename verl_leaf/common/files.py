"""Files and folders that are complete or not there, JSON lines, and digests."""

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; the file gets its name if the block ends without an error, and not before.

    A block that writes nothing, or removes what it wrote, leaves everything as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    try:
        yield temporary
        if temporary.exists():
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_inside(path: str | Path, folder: Path) -> bool:
    """Return whether a path leads into a folder, symbolic links followed.

    A file that someone sent names others by paths that may lead anywhere.
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_inside(path: Path, folder: Path) -> None:
    """Raise ValueError if a path leads out of a folder."""
    if not is_inside(path, folder):
        raise ValueError(f"{path}: is a link to {os.path.realpath(path)}, outside of {folder}, and is not read")


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file as a whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a folder to fill, which gets its name if the block ends without an error, and not before.

    Args:
        path: of the folder; the folders above it are made if need be.
        replace: let the new folder take the place of one that is there.

    Raises:
        FileExistsError: there is such a folder or file, and ``replace`` is not set.
    """
    if path.exists() and not replace:
        raise FileExistsError(f"{path} exists: delete it, or choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.partial-") as scratch:
        new = Path(scratch, "new")
        new.mkdir()
        yield new
        if replace:
            move_folder(new, path)
        else:
            new.rename(path)


def move_folder(folder: Path, path: Path) -> None:
    """Move a finished folder to a path, where it takes the place of what is there."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.old-") as scratch:
        if path.exists():
            path.rename(Path(scratch, path.name))
        folder.rename(path)


def read_json(file: Path, kind: type) -> Any:
    """Return what a JSON file contains; an empty ``kind`` if there is no such file.

    Raises:
        ValueError: the file is not valid JSON, contains something else, or is a link out of its folder.
    """
    if not file.exists():
        return kind()
    check_inside(file, file.parent)
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{file} is not a JSON {'object' if kind is dict else 'array'}")
    return content


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each line of a file of JSON lines that is not blank.

    A line ends with ``\\n`` and nothing else: a text may hold U+2028 and the other characters that end a line for
    ``str.splitlines``.

    Raises:
        ValueError: the file cannot be read, or a line is not valid JSON; file and line are named.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _parsed(path, number, line)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error


def _parsed(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: is not valid JSON in UTF-8 ({error})") from error


class LineStore(Generic[Key, Value]):
    """Values by key, kept in an append-only file of JSON lines.

    Args:
        path: of the file, which is made when the first line comes. A last line that was cut off, by a kill or a full
            disk, is dropped.
        parse: returns key and value of a line's JSON.
        what: a line holds, for errors, as in "answer".

    Raises:
        ValueError: another line is damaged; file and line are named.
    """

    def __init__(self, path: Path, parse: Callable[[Any], tuple[Key, Value]], what: str):
        self.path, self._parse = path, parse
        self.values: dict[Key, Value] = {}
        content = path.read_bytes() if path.exists() else b""
        *lines, torn = content.split(b"\n")
        if torn:
            os.truncate(path, len(content) - len(torn))
        for number, line in enumerate(lines, start=1):
            try:
                key, value = parse(json.loads(line))
                self.values[key] = value
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: is no {what} ({error!r}): delete the line") from error

    def append(self, line: str) -> None:
        """Keep a line, given without its end; it is on disk when this returns."""
        key, value = self._parse(json.loads(line))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        self.values[key] = value


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content; a process reads a file once, unless its size or time has changed."""
    status = path.stat()
    return _digest(path.absolute(), status.st_size, status.st_mtime_ns)


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            whole.update(block)
    return whole.hexdigest()
