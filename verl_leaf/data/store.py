"""Rows on disk while a process works with them."""

import copy
import errno
import os
import pickle
import shutil
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path


class RowStore:
    """Rows in a temporary file that has no name and vanishes with the process.

    Files of one run may differ in the types of their columns, which one Arrow table could not hold; and embedded audio
    may be larger than memory. Forked workers may read at the same time.

    Args:
        folder: of the file system to use, ``data.cache_dir``.
        needed: bytes that the rows need, about.

    Raises:
        ValueError: the folder has no room for them, or cannot be written to; also while rows are appended.
    """

    def __init__(self, folder: str, needed: int):
        self._folder, self._needed = Path(folder), needed
        self._starts, self._sizes = array("Q"), array("Q")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if needed > self._free():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file = tempfile.TemporaryFile(dir=folder)
        except OSError as error:
            raise self._no_room(error) from error

    def append(self, row: dict) -> None:
        try:
            self._starts.append(self._file.tell())
            self._sizes.append(self._file.write(pickle.dumps(row)))
            self._file.flush()  # a fork must not find anything in the buffer
        except OSError as error:
            raise self._no_room(error) from error

    def _free(self) -> int:
        """Return how many bytes are free on the file system of the folder, which may be missing."""
        return shutil.disk_usage(next(path for path in (self._folder, *self._folder.parents) if path.exists())).free

    def _no_room(self, error: OSError) -> ValueError:
        needed, free = (f"{size / 2**20:,.1f} MiB" for size in (self._needed, self._free()))
        return ValueError(
            f"data.cache_dir={self._folder} cannot hold the rows: {error.strerror}. They need about {needed}, and the disk has "
            f"{free} free (a quota may allow less). Set data.cache_dir to another folder"
        )

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> dict:
        start, size = self._starts[number], self._sizes[number]
        return pickle.loads(os.pread(self._file.fileno(), size, start))

    def select(self, numbers: Iterable[int]) -> "RowStore":
        """The rows of these numbers, in their order, of the same file."""
        chosen, numbers = copy.copy(self), list(numbers)
        chosen._starts = array("Q", (self._starts[number] for number in numbers))
        chosen._sizes = array("Q", (self._sizes[number] for number in numbers))
        return chosen
