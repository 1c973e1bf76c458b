"""Tables in a pipe."""

import io

import pytest
from rich.console import Console

from verl_leaf.evaluate.tables import Table


@pytest.mark.parametrize("width", [40, 80])
def test_a_pipe_gets_whole_names_and_digits(width):
    name, out = "s" * 120, io.StringIO()
    table = Table("Scores", ("system", "mean", "interval"), [(name, "12.34", "[11.11, 13.57]")], words=1)
    table.print(Console(file=out, width=width))
    row = next(line for line in out.getvalue().splitlines() if "sss" in line)
    assert row.split() == ["│", name, "│", "12.34", "│", "[11.11,", "13.57]", "│"]
