"""What is printed: whole names and digits at any width, and data that no terminal obeys."""

import ast
import io
import json
import os
import pty
import re
import subprocess
import sys

import pytest
import rich.console

from tests.helpers import PROJECT
from verl_leaf.common.console import Console
from verl_leaf.common.tables import show
from verl_leaf.evaluate.tables import Table

EVIL = "\x1b[31mred\x1b]0;title\x07\r\x9b2J\x7f [red]a[/] [/] :smile:"
SHOWN = r"\x1b[31mred\x1b]0;title\x07\r\x9b2J\x7f [red]a[/] [/] :smile:"
COLUMNS = ("system", "data", "mean", "of passes", "95 % interval", "p")
ROW = ("a_system_with_a_long_name", "fixie-ai/covost2", "12.34", "0.123", "[11.11, 13.57]", "0.0312")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

IN_A_TERMINAL = """
import json, sys
from verl_leaf.common.console import Console
from verl_leaf.common.tables import show
show("Scores", *json.loads(sys.argv[1]), words=2, console=Console())
"""


def in_a_terminal(width: int, *command: str) -> str:
    """What a command prints in a terminal of so many columns."""
    leader, follower = pty.openpty()
    os.set_blocking(leader, True)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TERM": "xterm-256color", "COLUMNS": str(width)}
    with subprocess.Popen([sys.executable, *command], stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        parts = []
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(leader)
    assert process.returncode == 0, b"".join(parts)
    return b"".join(parts).decode()


@pytest.mark.parametrize("console", [rich.console.Console, Console])
@pytest.mark.parametrize("width", [40, 80])
def test_a_pipe_gets_whole_names_and_digits(width, console):
    name, out = "s" * 120, io.StringIO()
    table = Table("Scores", ("system", "mean", "interval"), [(name, "12.34", "[11.11, 13.57]")], words=1)
    table.print(console(file=out, width=width))
    row = next(line for line in out.getvalue().splitlines() if "sss" in line)
    assert row.split() == ["│", name, "│", "12.34", "│", "[11.11,", "13.57]", "│"]


@pytest.mark.parametrize("width", [30, 40, 50, 60, 70, 80, 120])
def test_a_narrow_terminal_loses_whole_columns_and_says_which(width):
    printed = COLOURS.sub("", in_a_terminal(width, "-c", IN_A_TERMINAL, json.dumps([COLUMNS, [ROW]])))
    lines = [line.rstrip("\r") for line in printed.split("\n")]
    table = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert {len(line) for line in table if line} <= set(range(width + 1)) and "…" not in printed
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table if line.startswith("│")]
    cells = ["".join(parts) for parts in zip(*rows, strict=True)]  # a name may be on several lines
    assert cells == list(ROW[: len(cells)])
    missing = COLUMNS[len(cells) :]
    assert printed.count("Left out, because the terminal is too narrow") == bool(missing)
    assert (", ".join(missing) + "\r\n") in printed
    assert len(cells) == {30: 2, 40: 3, 50: 4, 60: 4, 70: 6, 80: 6, 120: 6}[width]


@pytest.mark.parametrize("terminal", [True, False])
def test_data_is_shown_and_not_obeyed(terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, color_system=None, width=400)
    show(EVIL, ("name", EVIL), [(EVIL, EVIL)], 1, console)
    console.print(EVIL, style="red")
    console.print(f"lone \udcff surrogate, {EVIL}")
    printed = out.getvalue()
    assert printed.count(SHOWN) == 6 and r"lone \udcff surrogate" in printed
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed)
    assert len({len(line) for line in printed.split("\n") if line[:1] in ("┏", "┃", "┡", "│", "└")}) == 1, "aligned"


def test_nothing_else_prints_data():
    """rich reads markup in texts, and lets the control characters of data through."""
    forbidden = {"rich.console", "rich.table", "rich.markup", "rich.print", "rich.progress_bar"}
    found = []
    for file in sorted((PROJECT / "verl_leaf").rglob("*.py")):
        if file.parent.name == "common":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [(file.name, name) for name in names if name in forbidden]
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "TextColumn":
                markup = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "markup"]
                found += [(file.name, "TextColumn")] if markup != ["False"] else []
    assert not found
