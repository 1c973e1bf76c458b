"""Files and folders that are written completely or not at all, locks, JSON lines, and digests."""

import fcntl
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which gets its final name only if the block ends without an error.

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


def lock_folder(folder: Path) -> IO[str]:
    """Return a file that stays locked while it is open here or in a child process, so that two commands never share a folder.

    Raises:
        ValueError: another process holds the lock, the folder cannot be written to, or the file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to ({error.strerror}). Choose another folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ValueError(
            f"{folder} is in use by another command. Wait for it, end it, or choose another folder"
        ) from None
    except OSError as error:
        lock.close()
        raise ValueError(
            f"{folder}: the file system has no file locks ({error.strerror}). Choose a folder on another one"
        ) from error
    return lock


def is_inside(path: str | Path, folder: Path) -> bool:
    """Return whether a path leads into a folder after symbolic links are resolved.

    A file from someone else may name files by paths that lead anywhere.
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_inside(path: Path, folder: Path) -> None:
    """Raise ValueError if a path leads out of a folder."""
    if not is_inside(path, folder):
        raise ValueError(
            f"{path} is a link to {os.path.realpath(path)}, outside of {folder}. Replace it by a copy of the file"
        )


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, which gets its final name only if the block ends without an error.

    Raises:
        FileExistsError: the folder or a file of this name exists, and ``replace`` is not set.
    """
    if path.exists() and not replace:
        raise FileExistsError(f"{path} exists. Delete it, or choose another --out")
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
    """Move a finished folder to a path and replace what is there."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.old-") as scratch:
        if path.exists():
            path.rename(Path(scratch, path.name))
        folder.rename(path)


def read_json(file: Path, kind: type) -> Any:
    """Return the content of a JSON file, or an empty ``kind`` if there is no file.

    Raises:
        ValueError: the file is not valid JSON, its content is not of that kind, or it is a link out of its folder.
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
    """Yield number and value of each line that is not blank in a file of JSON lines.

    Only ``\\n`` ends a line: a text may contain U+2028 and the other characters at which ``str.splitlines`` splits.

    Raises:
        ValueError: the file cannot be read, or a line is not valid JSON. The message names file and line.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _parsed(path, number, line)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error


def _parsed(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: this is not valid JSON in UTF-8 ({error})") from error


class LineStore(Generic[Key, Value]):
    """A mapping that is kept in an append-only file of JSON lines.

    Args:
        path: path of the file, which is made with the first line. An incomplete last line, left by a kill or a full
            disk, is dropped.
        parse: function that returns key and value of a line's JSON.
        what: name of a line's content for messages, such as "answer".

    Raises:
        ValueError: another line is damaged. The message names file and line.
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
                raise ValueError(
                    f"{path}, line {number}: this is not a valid {what} ({error!r}). Delete the line"
                ) from error

    def append(self, line: str) -> None:
        """Append a line, given without its line end; it is on disk when this returns."""
        key, value = self._parse(json.loads(line))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        self.values[key] = value


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, cached until the file's size or time changes."""
    status = path.stat()
    return _digest(path.absolute(), status.st_size, status.st_mtime_ns)


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            whole.update(block)
    return whole.hexdigest()
