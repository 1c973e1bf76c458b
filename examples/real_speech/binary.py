"""A binary file that is read from its beginning to its end, with a clear error if it ends too early."""

import struct
from pathlib import Path

import numpy as np


class FormatError(ValueError):
    """A file does not have the format that its reader expects."""


class BinaryFile:
    """The content of a little-endian file and the position of the next read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content = memoryview(path.read_bytes())
        self._position = 0

    def bytes(self, count: int, what: str) -> memoryview:
        """Read ``count`` bytes.

        Raises:
            FormatError: the file has fewer bytes left; ``what`` names the part that is missing.
        """
        if self._position + count > len(self._content):
            raise self.error(f"the file ends at byte {len(self._content)}, inside {what}. Download it again")
        self._position += count
        return self._content[self._position - count : self._position]

    def number(self, code: str, what: str) -> int | float | bool:
        """Read one number; ``code`` is its letter in :mod:`struct`."""
        return struct.unpack("<" + code, self.bytes(struct.calcsize("<" + code), what))[0]

    def text(self, length_code: str, what: str) -> str:
        """Read the length of a text in bytes, and the text."""
        content = bytes(self.bytes(self.number(length_code, what), what))
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise self.error(f"{what} is not valid UTF-8: {content[:20]!r}. Download the file again") from None

    def array(self, dtype: type | np.dtype, count: int, what: str) -> np.ndarray:
        """Read ``count`` elements."""
        return np.frombuffer(self.bytes(count * np.dtype(dtype).itemsize, what), dtype)

    @property
    def position(self) -> int:
        """The byte at which the next read begins."""
        return self._position

    def move_to(self, position: int) -> None:
        """Let the next read begin at the byte ``position``."""
        self._position = position

    def error(self, message: str) -> FormatError:
        """Return an error whose message begins with the name of the file."""
        return FormatError(f"{self.path}: {message}")
