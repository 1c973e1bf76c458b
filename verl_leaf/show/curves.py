"""Learning curves: training reward and validation score by steps, rollouts or time, compared by method and seed."""

import itertools
import math
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
TRAINING = "training reward"
SMOOTH = 5  # number of steps over which the training reward is averaged
AXES = {  # name -> column of the CSV, label, unit
    "steps": ("step", "training step", 1.0),
    "rollouts": ("rollouts", "rollouts", 1.0),
    "minutes": ("seconds", "minutes of training", 60.0),
}


def write_curves(folders: list[Path], scores: list[float], over: list[str], out: Path, console: Console) -> None:
    """Write a figure and its numbers, and print a table.

    Args:
        folders: folders of the runs. Runs that differ only in seeds are averaged.
        scores: validation scores to look for; if empty, the one half way between the lowest first and the highest last
            score.
        over: x axes of the figure, keys of ``AXES``.
        out: path of the files, without suffixes.

    Raises:
        ValueError: a folder contains no logs, no reward is logged yet, or an axis cannot be computed.
    """
    runs = read_runs(folders)
    if "rollouts" in over and (unknown := [run.name for run in runs if run.rollouts_per_step is None]):
        raise ValueError(
            f"--over rollouts: {unknown[0]} has no configuration with the rollouts per step. Choose another axis"
        )
    rows = [row for run in runs for row in points(run)]
    if not rows:
        skipped = [sentence for run in runs for sentence in run.skipped]
        raise ValueError(f"{folders[0]}: no reward and no validation is logged yet. {' '.join(skipped[:3])}".rstrip())
    scores = scores or _half_way(runs)
    save(out, _figure(runs, rows, over), rows, console)
    columns = ("method", "run", "data", "steps", "first", "last", "BLEU", *(f"{score:g} at" for score in scores))
    title = "Runs, and where their validation first reaches a score. BLEU is over the whole validation, in lower case"
    show(title, columns, list(_lines(runs, scores)), words=3, console=console)
    say_skipped("Could not be read", [sentence for run in runs for sentence in run.skipped], console)


def validation_scores(run: Run) -> dict[str, dict[int, float]]:
    """Return the mean validation score by data source and step, without the control with swapped audio."""
    return {
        what: dict(sorted(values.items()))
        for name, values in run.scalars.items()
        if (what := core_score(name)) and not what.endswith(SWAPPED_AUDIO_SUFFIX)
    }


def points(run: Run) -> list[dict]:
    """Return all numbers of a run's curves, one per row."""
    series = {f"validation: {source}": values for source, values in validation_scores(run).items()}
    series[TRAINING] = smoothed(run.scalars.get(REWARD, {}))
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
    """Return means over each step and the ``SMOOTH - 1`` steps before it."""
    ordered = sorted(values.items())
    return {
        step: statistics.fmean(value for _, value in ordered[max(0, index - SMOOTH + 1) : index + 1])
        for index, (step, _) in enumerate(ordered)
    }


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Return the mean, and half the width of its 95 % interval by Student's t; the half width is 0 for a single value."""
    mean = statistics.fmean(values)
    return mean, t_interval(values)[1] - mean if len(values) > 1 else 0.0


def crossing(values: dict[int, float], score: float) -> int | None:
    """Return the first step whose validation reaches a score, or None."""
    return next((step for step, value in sorted(values.items()) if value >= score), None)


def _half_way(runs: list[Run]) -> list[float]:
    ends = [(values[min(values)], values[max(values)]) for run in runs for values in validation_scores(run).values()]
    return [round((min(first for first, _ in ends) + max(last for _, last in ends)) / 2, 2)] if ends else []


def _figure(runs: list[Run], rows: list[dict], over: list[str]) -> Figure:
    """Return the figure: a panel per score, two per row; with several x axes, one row of panels per score."""
    names = sorted({row["score"] for row in rows}, reverse=True)  # validation first
    methods = list(dict.fromkeys(run.label for run in runs))
    columns = len(over) if len(over) > 1 else min(len(names), 2)
    lines = math.ceil(len(names) * len(over) / columns)
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.8 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (name, key) in zip(axes, itertools.product(names, over), strict=False):
        column, label, unit = AXES[key]
        for method, colour in zip(methods, itertools.cycle(COLOURS), strict=False):
            of_method = [row for row in rows if (row["score"], row["method"]) == (name, method)]
            _draw(axis, of_method, column, unit, method, colour)
        axis.set_title(literal(name) + (f", mean of {SMOOTH} steps" if name == TRAINING else ""), fontsize=9)
        axis.set_xlabel(label, fontsize=8)
        axis.set_ylabel(_measured(name, runs), fontsize=8)
        _scale(axis, [row["value"] for row in rows if row["score"] == name])
    for axis in axes[len(names) * len(over) :]:
        axis.remove()
    axes[0].legend(fontsize=7, frameon=False)
    seeds = "; mean of each method's runs, with its 95 % interval" if len(methods) < len(runs) else ""
    what = literal(runs[0].name) if len(runs) == 1 else f"{len(runs)} runs"
    figure.suptitle(f"Learning curves of {what}{seeds}", fontsize=10)
    return figure


def _measured(name: str, runs: list[Run]) -> str:
    """Return the label of a score's axis: the reward function, or the accuracy that is verl's main score."""
    if name.startswith("validation: acc of "):
        return "mean accuracy (acc)"
    rewards = sorted({run.reward for run in runs if run.reward})
    return literal(f"mean reward ({', '.join(rewards)})") if rewards else "mean reward"


def _draw(axis: Axes, rows: list[dict], key: str, unit: float, method: str, colour: str) -> None:
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


def _scale(axis: Axes, values: list[float]) -> None:
    """Fit a panel's range to its curves, because intervals of two runs would dominate it."""
    margin = (max(values) - min(values)) / 5 or 0.1
    axis.set_ylim(min(values) - margin, max(values) + margin)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def _lines(runs: list[Run], scores: list[float]) -> Iterator[list[str]]:
    for run in sorted(runs, key=lambda run: run.label):
        steps = str(int(max(run.scalars.get("training/global_step", {0: 0}))))
        for source, values in validation_scores(run).items() or [("", {})]:
            first_and_last = [f"{values[end(values)]:.3f}" if values else "" for end in (min, max)]
            reached = [_crossing(run, values, score) for score in scores]
            yield [run.label, run.name, source, steps, *first_and_last, _bleu(run), *reached]


def _bleu(run: Run) -> str:
    """Return the corpus BLEU after training, or an empty text if the summary has none."""
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
