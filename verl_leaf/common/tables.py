"""Tables on a console."""

from rich.console import Console
from rich.table import Table


def show(table: Table, console: Console) -> None:
    """Print a table: at its full width if the console is no terminal, so that a pipe or file gets whole names."""
    if not console.is_terminal:
        wide = console.measure(table, options=console.options.update(width=100_000)).maximum
        console = Console(file=console.file, width=wide)
    console.print(table)
