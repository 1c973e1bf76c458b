"""A console for texts from anywhere: a terminal shows every character and obeys none."""

from collections.abc import Iterator
from typing import Any

import rich.console
from rich.segment import Segment
from rich.text import Text

from verl_leaf.common.printable import printable


class Console(rich.console.Console):
    """A console that prints data safely.

    Brackets and colons are printed as they are, and control characters as escapes. The terminal wraps the lines.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape the text before the layout, so that widths are correct."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: Any, options: rich.console.ConsoleOptions | None = None) -> Iterator[Segment]:
        """Escape text that does not pass ``render_str``, such as that of a progress bar."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
