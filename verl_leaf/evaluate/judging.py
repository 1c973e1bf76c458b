"""Judges of the answers that are scored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from verl_leaf.common.answers import Answer
from verl_leaf.evaluate.metrics import judged
from verl_leaf.evaluate.report import Grid, Measured
from verl_leaf.judges import JudgeSpec, Verdicts, check_pairs, judge, read_spec
from verl_leaf.judges.grades import SCALES


def read_judges(files: Sequence[Path], systems: int) -> list[JudgeSpec]:
    """Return the judges that files describe.

    Raises:
        ValueError: a file does not describe a judge, two judges have the same name, or one compares systems but there
            is only one.
    """
    specs = [read_spec(file) for file in files]
    names = [spec.name for spec in specs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--judge: two judges are called {twice[0]}. Give one of them another name")
    for spec in specs:
        if spec.kind == "pairwise" and systems < 2:
            raise ValueError(f"--judge {spec.name}: kind pairwise compares two systems, but only one is given")
    return specs


def check(grid: Grid, specs: Sequence[JudgeSpec], against: str) -> None:
    """Check all judges before the first one is asked."""
    for spec in specs:
        for system in grid.answers:
            check_pairs(_flat(grid, system), spec, _flat(grid, against))


def ask(grid: Grid, spec: JudgeSpec, against: str, out: Path) -> tuple[Measured, list[dict]]:
    """Let a judge grade all answers. A pairwise judge compares each system with ``against``.

    Returns:
        The grades, which are scored like a metric, and one dictionary per system with the judge's statistics.
    """
    folder, pairs = out / spec.name, spec.kind == "pairwise"
    (folder / "verdicts").mkdir(parents=True, exist_ok=True)
    tables, summaries = {}, []
    for system in grid.answers:
        if pairs and system == against:
            continue
        verdicts = judge(_flat(grid, system), spec, folder, _flat(grid, against) if pairs else None)
        verdicts.write(folder / "verdicts" / f"{system}.jsonl")
        tables[system] = _table(verdicts, grid)
        summaries.append({"system": system, **verdicts.summary()})
    scale = SCALES[spec.kind]
    scorer = judged(spec.name, spec.model, spec.kind, (scale.worst, scale.best))
    return Measured(dict.fromkeys(grid.by_source(), scorer), tables, compared=not pairs), summaries


def _flat(grid: Grid, system: str) -> list[Answer]:
    return [answer for row in grid.answers[system] for answer in row]


def _table(verdicts: Verdicts, grid: Grid) -> np.ndarray:
    """Return grades ``[rows, passes, 2]``, with NaN for missing ones."""
    pairs = [(np.nan, np.nan) if item.value is None else (item.value, 1.0) for item in verdicts.items]
    return np.array(pairs).reshape(len(grid.rows), grid.passes, 2)
