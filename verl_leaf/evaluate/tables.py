"""Tables for the terminal, Markdown and LaTeX."""

import re
from dataclasses import dataclass

from verl_leaf.common.console import Console
from verl_leaf.common.tables import show

LATEX = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "↓": r"$\downarrow$"}
LATEX |= {"±": r"$\pm$", "−": "$-$", "[": "{[}"}  # a [ after \\ would start its argument
LATEX |= {"|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}"}  # otherwise dashes and question marks
LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: int  # number of leading columns that contain words; the others contain right-aligned numbers
    notes: tuple[str, ...] = ()  # sentences below the table

    def print(self, console: Console) -> None:
        show(self.title, self.columns, self.rows, self.words, console)
        for note in self.notes:
            console.print(note)
        console.print()

    def markdown(self) -> str:
        rules = ["---" if number < self.words else "---:" for number in range(len(self.columns))]
        rows = [self.columns, rules, *self.rows]
        lines = ["| " + " | ".join(map(_markdown, row)) + " |" for row in rows]
        notes = [f"\n{_markdown(note)}" for note in self.notes]
        return "\n".join([f"**{_markdown(self.title)}**", "", *lines, *notes, ""])

    def latex(self) -> str:
        """Return the table in LaTeX, with the rules of the package booktabs."""
        rows = [" & ".join(map(_latex, row)) + r" \\" for row in (self.columns, *self.rows)]
        return "\n".join(
            [
                r"\begin{table}",
                rf"\caption{{{_latex(' '.join((self.title + '.', *self.notes)))}}}",
                rf"\begin{{tabular}}{{{'l' * self.words}{'r' * (len(self.columns) - self.words)}}}",
                r"\toprule",
                rows[0],
                r"\midrule",
                *rows[1:],
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def _markdown(text: str) -> str:
    """Return a text in one line, with characters escaped that would become HTML, links or cell borders."""
    return re.sub(r"([\\|<>\[\]`*_])", r"\\\1", " ".join(text.split()))
