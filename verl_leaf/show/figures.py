"""What the figures have in common."""

import csv
import warnings
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from verl_leaf.common.console import Console
from verl_leaf.common.files import whole_file
from verl_leaf.common.printable import printable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's


def literal(text: str) -> str:
    """Text of a run, such as its folder's name, as matplotlib shows it whatever characters it has."""
    text = printable(text).replace("$", r"\$")  # no formulas
    return f" {text}" if text.startswith("_") else text  # a label with _ is left out of legends


def save(out: Path, figure: Figure, rows: Iterable[dict], console: Console) -> None:
    """Write ``out.png``, ``out.svg`` and ``out.csv``, and say so."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")  # names in scripts that matplotlib's font lacks
        with matplotlib.rc_context({"svg.hashsalt": "verl-leaf", "svg.fonttype": "none"}):  # the same bytes, real text
            figure.savefig(f"{out}.svg", metadata={"Date": None})
        figure.savefig(f"{out}.png", dpi=160)
    write_csv(Path(f"{out}.csv"), list(rows))
    console.print(f"Written: {out}.png, .svg, .csv")


def write_csv(file: Path, rows: list[dict]) -> None:
    """Write rows that all have the keys of the first; texts that a spreadsheet would take for a formula begin with ``'``."""
    with whole_file(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value):
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) else value
