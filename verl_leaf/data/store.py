"""Rows on disk while a process works with them."""

import copy
import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable


class RowStore:
    """Rows in a temporary file that has no name and vanishes with the process.

    Files of one run may differ in the types of their columns, which one Arrow table could not hold; and embedded audio
    may be larger than memory. Forked workers may read at the same time.

    Args:
        folder: of the file system to use.
    """

    def __init__(self, folder: str):
        self._file = tempfile.TemporaryFile(dir=folder)
        self._starts, self._sizes = array("Q"), array("Q")

    def append(self, row: dict) -> None:
        self._starts.append(self._file.tell())
        self._sizes.append(self._file.write(pickle.dumps(row)))
        self._file.flush()  # a fork must not find anything in the buffer

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
