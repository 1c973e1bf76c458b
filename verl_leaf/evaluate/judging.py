"""Judges asked of the answers that are scored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from verl_leaf.common.console import Console
from verl_leaf.evaluate.metrics import judged
from verl_leaf.evaluate.report import Grid, Measured
from verl_leaf.judges import JudgeSpec, Verdicts, check_pairs, judge, read_spec


def read_judges(files: Sequence[Path], systems: int) -> list[JudgeSpec]:
    """The judges of these files.

    Raises:
        ValueError: a file is none of a judge, two have one name, or one compares systems and there is a single one.
    """
    specs = [read_spec(file) for file in files]
    names = [spec.name for spec in specs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--judge: two judges are called {twice[0]}: give one of them another name")
    for spec in specs:
        if spec.kind == "pairwise" and systems < 2:
            raise ValueError(f"--judge {spec.name}: kind pairwise compares two systems, and there is one")
    return specs


def ask(
    grid: Grid, specs: Sequence[JudgeSpec], against: str, out: Path, console: Console
) -> tuple[list[Measured], list[dict]]:
    """Let judges grade all answers; pairs are those of each other system with ``against``.

    Args:
        grid: the answers.
        specs: the judges.
        against: name of the system that a pairwise judge compares the others with.
        out: folder for replies and verdicts.
        console: for the progress.

    Returns:
        What is scored like a metric, and what each judge did, a dictionary for each system.

    Raises:
        JudgeStopped: see :func:`verl_leaf.judges.judge`.
        ValueError: answers cannot be judged.
    """
    flat = {system: [answer for row in own for answer in row] for system, own in grid.answers.items()}
    for spec in specs:  # all, before the first is asked
        for answers in flat.values():
            check_pairs(answers, spec, flat[against])
    out.mkdir(parents=True, exist_ok=True)
    measured, summaries = [], []
    for spec in specs:
        pairs = spec.kind == "pairwise"
        tables = {}
        for system, answers in flat.items():
            if pairs and system == against:
                continue
            verdicts = judge(answers, spec, out, flat[against] if pairs else None, console)
            verdicts.write(out / f"{spec.name}.{system}.jsonl")
            tables[system] = _table(verdicts, grid)
            summaries.append({"system": system, **verdicts.summary()})
        scorer = judged(spec.name, spec.model, spec.kind)
        measured.append(Measured(dict.fromkeys(grid.by_source(), scorer), tables, compared=not pairs))
    return measured, summaries


def _table(verdicts: Verdicts, grid: Grid) -> np.ndarray:
    """Grades ``[rows, passes, 2]``; a missing one counts for nothing."""
    pairs = [(0.0, 0.0) if item.value is None else (item.value, 1.0) for item in verdicts.items]
    return np.array(pairs).reshape(len(grid.rows), grid.passes, 2)
