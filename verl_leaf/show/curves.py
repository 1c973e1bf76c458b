"""``verl-leaf curves``: reward and validation score against steps, rollouts and time, methods and seeds compared."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verl_leaf.common.console import Console
from verl_leaf.common.intervals import t_interval
from verl_leaf.common.names import SWAPPED_AUDIO_SUFFIX
from verl_leaf.common.tables import show
from verl_leaf.runs.compare import Run, read_runs
from verl_leaf.runs.metrics import core_score
from verl_leaf.show import say_skipped
from verl_leaf.show.figures import COLOURS, literal, save

REWARD = "critic/score/mean"
SMOOTH = 5  # steps that the training reward is averaged over


def write_curves(folders: list[Path], scores: list[float], out: Path, console: Console) -> None:
    """Write figure and numbers, and a table to the terminal.

    Args:
        folders: of the runs; those that differ in seeds only are taken together.
        scores: validation scores to look for. Half way from the lowest first to the highest last one if empty.
        out: path of the files, less their suffixes.
        console: of the table.

    Raises:
        ValueError: a folder holds no logs, or none of a reward yet.
    """
    runs = read_runs(folders)
    rows = [row for run in runs for row in points(run)]
    if not rows:
        skipped = [sentence for run in runs for sentence in run.skipped]
        raise ValueError(f"{folders[0]}: no reward and no validation is logged yet. {' '.join(skipped[:3])}".rstrip())
    scores = scores or _half_way(runs)
    save(out, _figure(runs, rows), rows, console)
    columns = ("method", "run", "data", "steps", "first", "last", "BLEU", *(f"{score:g} at" for score in scores))
    title = "Runs, and where their validation first has a score. BLEU is of the whole validation, in lower case"
    show(title, columns, list(_lines(runs, scores)), words=3, console=console)
    say_skipped("Could not be read", [sentence for run in runs for sentence in run.skipped], console)


def validation_scores(run: Run) -> dict[str, dict[int, float]]:
    """Return the mean validation score by data source and step; rows with swapped audio are a control and left out."""
    return {
        what: dict(sorted(values.items()))
        for name, values in run.scalars.items()
        if (what := core_score(name)) and not what.endswith(SWAPPED_AUDIO_SUFFIX)
    }


def points(run: Run) -> list[dict]:
    """All numbers of a run's curves, one per row."""
    series = {f"validation: {source}": values for source, values in validation_scores(run).items()}
    series["training reward"] = smoothed(run.scalars.get(REWARD, {}))
    return [
        {
            "run": run.name,
            "method": run.label,
            "score": name,
            "step": step,
            "rollouts": None if run.rollouts_per_step is None else step * run.rollouts_per_step,
            "seconds": run.seconds(step),
            "value": value,
        }
        for name, values in series.items()
        for step, value in values.items()
    ]


def smoothed(values: dict[int, float]) -> dict[int, float]:
    """Means over each step and those before it, ``SMOOTH`` in all."""
    ordered = sorted(values.items())
    return {
        step: statistics.fmean(value for _, value in ordered[max(0, index - SMOOTH + 1) : index + 1])
        for index, (step, _) in enumerate(ordered)
    }


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Return the mean, and half the width of its 95 % interval by Student's t; 0 for a single value."""
    mean = statistics.fmean(values)
    return mean, t_interval(values)[1] - mean if len(values) > 1 else 0.0


def crossing(values: dict[int, float], score: float) -> int | None:
    """The first step whose validation has at least a score."""
    return next((step for step, value in sorted(values.items()) if value >= score), None)


def _half_way(runs: list[Run]) -> list[float]:
    ends = [(values[min(values)], values[max(values)]) for run in runs for values in validation_scores(run).values()]
    return [round((min(first for first, _ in ends) + max(last for _, last in ends)) / 2, 2)] if ends else []


def _figure(runs: list[Run], rows: list[dict]) -> Figure:
    """A row of panels per score, a column per measure of effort."""
    names = sorted({row["score"] for row in rows}, reverse=True)  # validation first
    methods = list(dict.fromkeys(run.label for run in runs))
    efforts = [("step", "step", 1.0), ("seconds", "minutes of training", 60.0)]
    if all(run.rollouts_per_step for run in runs):
        efforts.insert(1, ("rollouts", "rollouts", 1.0))
    figure = Figure(figsize=(3.4 * len(efforts) + 0.6, 2.6 * len(names) + 0.5), layout="constrained")
    panels = figure.subplots(len(names), len(efforts), sharey="row", squeeze=False)
    for line, name in zip(panels, names, strict=True):
        for method, colour in zip(methods, itertools.cycle(COLOURS), strict=False):
            points = [row for row in rows if (row["score"], row["method"]) == (name, method)]
            for axis, (key, label, unit) in zip(line, efforts, strict=True):
                _draw(axis, points, key, unit, method, colour)
                axis.set_xlabel(label, fontsize=8)
        _scale(line, [row["value"] for row in rows if row["score"] == name])
        smooth = f", mean of {SMOOTH} steps" if name == "training reward" else ""
        line[0].set_ylabel(literal(name) + smooth, fontsize=8)
    panels[0][0].legend(fontsize=7, frameon=False)
    return figure


def _draw(axis: Axes, rows: list[dict], key: str, unit: float, method: str, colour: str) -> None:
    """The mean of a method's runs, with its interval."""
    by_step = defaultdict(list)
    for row in rows:
        by_step[row["step"]].append(row)
    steps = sorted(by_step)
    x = [statistics.fmean(row[key] for row in by_step[step]) / unit for step in steps]
    curve = [mean_and_interval([row["value"] for row in by_step[step]]) for step in steps]
    seeds = max(map(len, by_step.values()), default=0)
    label = f"{method} ({seeds} runs)" if seeds > 1 else method
    axis.plot(x, [mean for mean, _ in curve], color=colour, label=literal(label), marker="o", markersize=2.5)
    low, high = [mean - half for mean, half in curve], [mean + half for mean, half in curve]
    axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _scale(line: list[Axes], values: list[float]) -> None:
    """The same room for all panels of a score: that of the curves, since intervals of two runs would take all of it."""
    margin = (max(values) - min(values)) / 5 or 0.1
    for axis in line:
        axis.set_ylim(min(values) - margin, max(values) + margin)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)


def _lines(runs: list[Run], scores: list[float]) -> Iterator[list[str]]:
    """Yield the table's rows: one per run and data source."""
    for run in sorted(runs, key=lambda run: run.label):
        steps = str(int(max(run.scalars.get("training/global_step", {0: 0}))))
        for source, values in validation_scores(run).items() or [("", {})]:
            first_and_last = [f"{values[end(values)]:.3f}" if values else "" for end in (min, max)]
            reached = [_crossing(run, values, score) for score in scores]
            yield [run.label, run.name, source, steps, *first_and_last, _bleu(run), *reached]


def _bleu(run: Run) -> str:
    """Return the corpus BLEU after training, if the summary has it."""
    value: Any = run.summary
    for key in ("val", "after", "bleu"):
        value = value.get(key) if isinstance(value, dict) else None
    return f"{value:.1f}" if isinstance(value, float) else ""


def _crossing(run: Run, values: dict[int, float], score: float) -> str:
    step = crossing(values, score)
    if step is None:
        return "not yet"
    rollouts = f", {step * run.rollouts_per_step} rollouts" if run.rollouts_per_step else ""
    return f"step {step}{rollouts}, {run.seconds(step) / 60:.1f} min"
