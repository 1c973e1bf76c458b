"""Rows on disk while a process works with them, and for later processes that need the same rows."""

import copy
import errno
import os
import pickle
import shutil
import tempfile
from array import array
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np

from verl_leaf.common.files import whole_file


class RowStore:
    """Rows in a nameless file that vanishes with the process, unless it is kept.

    A file is used because the files of one run may differ in the types of their columns, which one Arrow table could
    not contain, and because embedded audio may be larger than memory. Forked workers may read at the same time.

    Args:
        folder: folder on the file system to use, ``data.cache_dir``.
        needed: approximate size of the rows in bytes.

    Raises:
        ValueError: the folder has too little room or cannot be written to. This may also happen while rows are appended.
    """

    def __init__(self, folder: str, needed: int):
        self._folder, self._needed = Path(folder), needed
        self._starts: Any = array("Q")
        self._sizes: Any = array("Q")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if needed > self._free():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file = _nameless_file(folder)
        except OSError as error:
            raise self._no_room(error) from error

    @classmethod
    def find(cls, folder: str, name: str) -> tuple["RowStore", dict[str, np.ndarray]] | None:
        """Return the rows that :meth:`keep` has kept under a name, and their arrays, or None if there are none."""
        index, rows = _kept(Path(folder), name)
        try:
            with np.load(index) as about:
                arrays = dict(about)
            file = rows.open("rb")
        except (OSError, ValueError, BadZipFile):
            return None
        store = cls.__new__(cls)
        store._file, store._starts, store._sizes = file, arrays.pop("starts"), arrays.pop("sizes")
        return (store, arrays) if store.size == store._starts[-1] + store._sizes[-1] else None

    def keep(self, name: str, **about: Any) -> Path:
        """Give the file a name in its folder, and keep the arrays ``about`` with it.

        It replaces all files whose names begin with the same part before a hyphen.
        """
        index, rows = _kept(self._folder, name)
        for old in self._folder.glob(f"{name.partition('-')[0]}-*"):
            old.unlink(missing_ok=True)
        with whole_file(rows) as temporary:
            try:
                os.link(f"/proc/self/fd/{self._file.fileno()}", temporary, follow_symlinks=True)
            except OSError:  # the file system has no nameless files
                with temporary.open("wb") as copied:
                    self._file.seek(0)
                    shutil.copyfileobj(self._file, copied)
        with whole_file(index) as temporary, temporary.open("wb") as arrays:
            np.savez(arrays, allow_pickle=False, starts=np.array(self._starts), sizes=np.array(self._sizes), **about)
        return rows

    def append(self, row: dict) -> None:
        try:
            self._starts.append(self._file.tell())
            self._sizes.append(self._file.write(pickle.dumps(row)))
            self._file.flush()  # a forked process must not inherit buffered data
        except OSError as error:
            raise self._no_room(error) from error

    def _free(self) -> int:
        """Return the bytes that are free on the file system of the folder, which may not exist yet."""
        return shutil.disk_usage(next(path for path in (self._folder, *self._folder.parents) if path.exists())).free

    def _no_room(self, error: OSError) -> ValueError:
        needed, free = (f"{size / 2**20:,.1f} MiB" for size in (self._needed, self._free()))
        return ValueError(
            f"data.cache_dir={self._folder} cannot store the rows: {error.strerror}. They need about {needed}, and the disk has "
            f"{free} free (a quota may allow less). Set data.cache_dir to another folder"
        )

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> dict:
        return pickle.loads(os.pread(self._file.fileno(), int(self._sizes[number]), int(self._starts[number])))

    def select(self, numbers: np.ndarray) -> "RowStore":
        """Return a store with the rows of these numbers, in their order, in the same file."""
        chosen = copy.copy(self)
        chosen._starts, chosen._sizes = np.array(self._starts)[numbers], np.array(self._sizes)[numbers]
        return chosen


def _kept(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.npz", folder / f"{name}.rows"


def _nameless_file(folder: str) -> IO[bytes]:
    try:  # a file of tempfile could not be given a name
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600), "w+b")
    except OSError:
        return tempfile.TemporaryFile(dir=folder)
