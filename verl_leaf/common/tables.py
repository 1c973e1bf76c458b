"""Tables on a console that never cut a value."""

from collections.abc import Sequence

from rich.box import HEAVY_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from verl_leaf.common.console import Console
from verl_leaf.common.printable import printable

WORDS_WIDTH = 10  # least width of a column of words, in terminal columns
UNLIMITED = 100_000  # width of a pipe or file


def show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]], words: int, console: Console
) -> None:
    """Print a table.

    Names and numbers are never cut. If a terminal is too narrow, words wrap first. Then the last columns are left out,
    and a line names them. A pipe or file gets the full width. The first ``words`` columns contain words, the others
    right-aligned numbers.
    """
    width = console.width if console.file.isatty() else UNLIMITED
    cells = [[cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row] for row in rows]
    full = [max(map(_width, (heading, *column))) for heading, *column in zip(columns, *cells, strict=True)]
    least = [
        min(whole, WORDS_WIDTH) if number < words else max(map(_width, (*columns[number].split(), *column)))
        for number, (whole, *column) in enumerate(zip(full, *cells, strict=True))
    ]

    def fits(widths: list[int]) -> bool:
        return sum(widths) + 3 * len(widths) + 1 <= width

    shown = len(columns)
    while shown > 1 and not fits(least[:shown]):
        shown -= 1
    table = Table(box=HEAVY_HEAD)
    for number, heading in enumerate(columns[:shown]):
        text = Text(printable(heading))
        if number < words:
            table.add_column(text, overflow="fold")
        else:
            table.add_column(text, justify="right", width=None if fits(full[:shown]) else least[number])
    for row in cells:
        table.add_row(*row[:shown])
    if title:
        console.print(Text(printable(title), "bold"))
    console.width, before = width, console.width
    console.print(table, soft_wrap=False)
    console.width = before
    if shown < len(columns):
        console.print(f"Left out, because the terminal is too narrow: {', '.join(columns[shown:])}")


def _width(text: str | Text) -> int:
    return max(map(cell_len, str(text).split("\n")))
