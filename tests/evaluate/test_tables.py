"""Texts of strangers in tables: they stay texts in Markdown, LaTeX and CSV."""

import csv

import pytest

from verl_leaf.evaluate.tables import Table
from verl_leaf.show.figures import write_csv

BAD = "a|b\n<img src=x onerror=alert(1)> [x](http://y) `c` ^~ \\input{/etc/passwd} $& #_%"


def table(text: str) -> Table:
    return Table("T", ("data source", "mean"), [(text, "1.0"), ("[2]", "2.0")], 1, (text,))


def test_markdown_stays_one_cell_without_html_or_links():
    lines = table(BAD).markdown().split("\n")
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 4 and rows[2].replace(r"\|", "").count("|") == 3
    assert not [c for c in "<>[]`_" for n, found in enumerate(rows[2]) if found == c and rows[2][n - 1] != "\\"]


def test_latex_runs_no_command_and_keeps_rows():
    rows = [line for line in table(BAD).latex().split("\n") if line.endswith(r" \\")]
    assert len(rows) == 3 and rows[2].startswith("{[}2")
    row = rows[1].removesuffix(r" & 1.0 \\")
    names = ("backslash", "asciicircum", "asciitilde", "bar", "less", "greater")
    for known in ("{[}", *(rf"\text{name}{{}}" for name in names)):
        assert known in row
        row = row.replace(known, "")
    assert not [n for n, c in enumerate(row) if c in "&%$#_{}^~" and row[n - 1] != "\\"]
    assert set(row.split("\\")[1:]) and all(part[:1] in "&%$#_{}" for part in row.split("\\")[1:])


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", " \t=1"])
def test_a_spreadsheet_takes_no_text_for_a_formula(text, tmp_path):
    write_csv(tmp_path / "x.csv", [{"system": text, "mean": -0.5}])
    with (tmp_path / "x.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {"system": f"'{text}", "mean": "-0.5"}
