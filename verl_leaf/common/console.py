"""The console that the commands print with: whatever characters data has, a terminal shows them and obeys none."""

from collections.abc import Iterator
from typing import Any

import rich.console
from rich.segment import Segment
from rich.text import Text

from verl_leaf.common.printable import printable


class Console(rich.console.Console):
    """A console for texts from anywhere.

    Brackets and colons are printed as they are, control characters as escapes. Lines are left to the terminal to wrap.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape before the layout, so that widths are right."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: Any, options: rich.console.ConsoleOptions | None = None) -> Iterator[Segment]:
        """Escape what comes another way, such as the texts of a progress bar."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
