"""A small share of the simulation with known truth; tests/benchmarks/README.md has the whole of it."""

import re

import pytest

from tests.benchmarks.known_truth import CASES, CLIPS, cell, coverage, errors
from tests.helpers import PROJECT

README = (PROJECT / "tests/benchmarks/README.md").read_text(encoding="utf-8")


def readme_cells(title: str) -> dict[tuple[str, int], str]:
    """The cells of a table of the README by case and number of clips."""
    table = README[README.index(f"| {title} |") :].split("\n\n")[0]
    rows = [[each.strip() for each in line.strip("|").split("|")] for line in table.split("\n")[2:]]
    return {(name, clips): value for name, *values in rows for clips, value in zip(CLIPS, values, strict=True)}


@pytest.mark.parametrize(
    ("title", "systems"), [("% of intervals of a score that hold it", 1), ("... of a difference", 2)]
)
def test_the_readme_says_what_intervals_cover(title, systems):
    cells = readme_cells(title)
    assert {case for case, _ in cells} == set(CASES)
    for (case, clips), value in cells.items():
        if value != "-":
            assert 93 <= float(value) <= 97.2, (case, clips)  # 97, and less than a standard error of the simulation
    for case, clips in (("skewed (exponential)", 30), ("rare, 2 %", 64)):
        share, held = coverage(case, clips, 4000, systems)
        assert cell(share, held) == cells[case, clips]


def test_few_tests_find_what_is_not_there():
    cells = readme_cells("% of tests with p <= 0.05 without a difference")
    assert all(value == "-" or float(value) <= 7.2 for value in cells.values())  # 5, and three standard errors
    for case, clips in (("rare, 10 %", 10), ("normal", 3)):
        share = errors(case, clips, 1000)
        assert ("-" if share is None else f"{100 * share:.1f}") == cells[case, clips]
    assert re.search(r"python -m tests\.benchmarks\.known_truth", README)
