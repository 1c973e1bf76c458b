"""Reading of parquet files of rows from any writer."""

import json
import multiprocessing
import os
import signal
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow
import pyarrow.parquet

from verl_leaf.common.console import Console
from verl_leaf.common.progress import track

BATCH_ROWS = 128
BATCH_BYTES = 2**22  # of a batch; rows with embedded audio have megabytes
MOST_WORKERS = 64  # more would wait for this process, which reads the file
AHEAD = 2  # batches per process that are read before their results are wanted
LISTS = (
    *(pyarrow.ListType, pyarrow.LargeListType, pyarrow.FixedSizeListType),
    *(pyarrow.ListViewType, pyarrow.LargeListViewType),
)
READ_BUFFER = 2**20  # bytes; without it, or with pre_buffer, pyarrow reads a row group's whole column at once

Item = TypeVar("Item")
Result = TypeVar("Result")


class RowFile:
    """A parquet file that is read in batches of Python rows.

    The path is taken literally. Rows are as :mod:`datasets` would read them, with any Arrow type of text, lists or
    dictionaries, and with JSON decoded (``datasets`` writes JSON if the values of a column differ in type).

    Raises:
        ValueError: the file cannot be read as parquet, contains no row, or has two columns of the same name.
    """

    def __init__(self, path: str | Path):
        self.path = os.fspath(path)
        with self._opened() as file:
            self.schema: pyarrow.Schema = file.schema_arrow
            self._groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise ValueError(f"{self.path} has more than one column {', '.join(map(repr, twice))}")
        if len(self) == 0:
            raise ValueError(f"{self.path} contains no rows")

    @contextmanager
    def _opened(self) -> Iterator[pyarrow.parquet.ParquetFile]:
        if not os.path.exists(self.path):
            raise ValueError(f"{self.path} does not exist")
        if not os.path.isfile(self.path):
            raise ValueError(f"{self.path} is not a file. Give the path of one parquet file")
        if os.path.getsize(self.path) == 0:
            raise ValueError(f"{self.path} is empty (0 bytes), and so not a parquet file")
        options = {"buffer_size": READ_BUFFER, "pre_buffer": False, "page_checksum_verification": True}
        try:
            source = pyarrow.OSFile(self.path)
            file = pyarrow.parquet.ParquetFile(source, **options)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"{self.path} cannot be read as parquet ({_one_line(error)})") from error
        with source:
            yield file

    @property
    def columns(self) -> list[str]:
        return self.schema.names

    @property
    def mixed(self) -> list[str]:
        """Columns whose values may differ in type, which their writer stored as JSON."""
        return [field.name for field in self.schema if _holds_json(field.type)]

    @property
    def size(self) -> int:
        """Bytes of all rows before compression."""
        return sum(group.total_byte_size for group in self._groups)

    def __len__(self) -> int:
        return sum(group.num_rows for group in self._groups)

    def rows(
        self, numbers: Sequence[int] | np.ndarray | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, dict]]:
        """Yield rows with their numbers, while about ``BATCH_BYTES`` and a page of each column are in memory.

        Args:
            numbers: numbers of the rows, in ascending order, or None for all.
            columns: names of the columns; names that the file lacks are ignored. None for all.

        Raises:
            ValueError: a row cannot be read. The message names it.
        """
        for batch in self._batches(numbers, columns):
            yield from batch

    def map(
        self,
        function: Callable[[dict], Result],
        what: str,
        numbers: Sequence[int] | np.ndarray | None = None,
        columns: Sequence[str] | None = None,
        console: Console | None = None,
    ) -> Iterator[tuple[int, dict, Result | ValueError]]:
        """Call a function with every row, in as many processes as there are cores, and show the progress.

        Args:
            function: function of a row, which it may change. If it raises ValueError, the error is yielded as its result.
                It is called in forked processes (in this one if the rows are few), so what else it changes may be lost.
            numbers, columns: as in :meth:`rows`.

        Yields:
            The row's number, the row after ``function``, and the result, in the order of the rows.
        """
        total = len(self) if numbers is None else len(numbers)
        yield from track(self._map(function, self._batches(numbers, columns), total), what, total, console)

    def _map(self, function, batches, total: int):
        workers = min(len(os.sched_getaffinity(0)), -(-total // BATCH_ROWS), MOST_WORKERS)
        if workers == 1:
            for batch in batches:
                yield from _results(function, batch)
            return
        # Threads would share one core: most of the work is Python. To start processes anew, each would import verl.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (function,)) as pool:
            try:
                for results in in_order(pool, _results_of_worker, batches, AHEAD * workers):
                    yield from results
            except BrokenProcessPool as error:
                reason = "a process that reads its rows has been killed, most likely because the memory is full"
                raise ValueError(f"{self.path}: {reason}") from error

    def _batches(self, numbers, columns) -> Iterator[list[tuple[int, dict]]]:
        """Yield the rows of :meth:`rows` in lists of at most ``BATCH_ROWS`` rows."""
        wanted = range(len(self)) if numbers is None else numbers
        names = [name for name in self.columns if columns is None or name in columns]
        first = 0
        with self._opened() as file:
            for index, group in enumerate(self._groups):
                end = first + group.num_rows
                in_group = wanted[bisect_left(wanted, first) : bisect_left(wanted, end)]
                if len(in_group):
                    yield from self._batches_of_group(file, index, first, in_group, names)
                first = end

    def _batches_of_group(self, file, index: int, first: int, wanted: Sequence[int] | np.ndarray, names: list[str]):
        """Yield lists of numbers and rows for the ``wanted`` rows of a row group whose first row has the number ``first``."""
        group = self._groups[index]
        row_bytes = max(1, group.total_byte_size // group.num_rows)
        size = min(BATCH_ROWS, max(1, BATCH_BYTES // row_bytes))
        batches = file.iter_batches(size, row_groups=[index], columns=names, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                raise ValueError(f"{self.path}: rows from {first} on cannot be read ({_one_line(error)})") from error
            if batch is None:
                raise ValueError(f"{self.path} ends at row {first}, although it states {len(self)} rows")
            end = first + len(batch)
            in_batch = wanted[bisect_left(wanted, first) : bisect_left(wanted, end)]
            if len(in_batch):
                yield [(number, self._row(batch, number, number - first)) for number in in_batch]
            first = end
            if first > wanted[-1]:
                return

    def _row(self, batch: pyarrow.RecordBatch, number: int, place: int) -> dict:
        row = {}
        for field, column in zip(batch.schema, batch.columns, strict=True):
            try:
                row[field.name] = _decoded(column[place].as_py(), field.type)
            except (pyarrow.ArrowException, ValueError) as error:  # text that is not UTF-8, or invalid JSON
                message = f"{self.path}, row {number}, column {field.name!r} cannot be read ({_one_line(error)})"
                raise ValueError(message) from error
        return row


def in_order(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Yield a function's results in the order of the items, of which at most ``ahead`` are taken early."""
    pending: deque = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _results(function: Callable[[dict], Result], batch: list[tuple[int, dict]]):
    """Yield number, row and result for each row of a batch."""
    for number, row in batch:
        try:
            result = function(row)
        except ValueError as error:
            yield number, row, ValueError(str(error))  # subclasses may not pass from one process to another
        else:
            yield number, row, result


_function: Callable[[dict], Any]  # of a forked process


def _begin(function: Callable[[dict], Any]) -> None:
    """Prepare a forked process."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the parent, which stops this process
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the threads of tokenizers do not exist in a forked process


def _results_of_worker(batch: list[tuple[int, dict]]) -> list:
    return list(_results(_function, batch))


def _decoded(value, type: pyarrow.DataType):
    """Return a value with JSON in it decoded."""
    if value is None:
        return None
    if isinstance(type, pyarrow.JsonType):
        return json.loads(value)
    if pyarrow.types.is_struct(type):
        return {field.name: _decoded(value[field.name], field.type) for field in type}
    if isinstance(type, LISTS):
        return [_decoded(item, type.value_type) for item in value]
    return value


def _holds_json(type: pyarrow.DataType) -> bool:
    inner = list(type) if pyarrow.types.is_struct(type) else [type.value_field] if isinstance(type, LISTS) else []
    return isinstance(type, pyarrow.JsonType) or any(_holds_json(field.type) for field in inner)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
