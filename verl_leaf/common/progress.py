"""Progress of long work: a bar on a terminal, otherwise an occasional line."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from verl_leaf.common.console import Console

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[Item], what: str, total: int, console: Console | None = None) -> Iterator[Item]:
    """Yield ``items`` while showing how many of ``total`` are done, on standard error unless there is a console."""
    console = console or Console(stderr=True)
    if console.is_terminal:
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(elapsed_when_finished=True))
        with Progress(*columns, console=console, transient=True) as progress:
            yield from progress.track(items, total, description=what)
        return
    began = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES and done < total:
            said = now
            left = (now - began) / done * (total - done)
            console.print(f"{what}: {done} of {total}, about {left:.0f} s left")
