"""Helpers that the figures share."""

import csv
import warnings
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from verl_leaf.common.console import Console
from verl_leaf.common.files import whole_file
from verl_leaf.common.printable import printable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's palette


def literal(text: str) -> str:
    """Return a text of a run, such as its folder's name, so that matplotlib shows every character as it is."""
    text = printable(text).replace("$", r"\$")  # no formulas
    return f" {text}" if text.startswith("_") else text  # legends leave out labels that begin with _


def save(out: Path, figure: Figure, rows: Iterable[dict], console: Console) -> None:
    """Write ``out.png``, ``out.svg`` and ``out.csv``, and print their names."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")  # matplotlib's font lacks some scripts
        with matplotlib.rc_context({"svg.hashsalt": "verl-leaf", "svg.fonttype": "none"}):  # same bytes, real text
            figure.savefig(f"{out}.svg", metadata={"Date": None})
        figure.savefig(f"{out}.png", dpi=160)
    write_csv(Path(f"{out}.csv"), list(rows))
    console.print(f"Written: {out}.png, .svg, .csv")


def write_csv(file: Path, rows: list[dict]) -> None:
    """Write rows with the keys of the first. Texts that a spreadsheet would read as a formula get a leading ``'``."""
    with whole_file(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value):
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) else value
