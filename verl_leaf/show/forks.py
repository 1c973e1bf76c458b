"""``verl-leaf forks``: how often boundaries fire, how large nodes are, and how far the rewards within them differ."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import binomtest

from verl_leaf.runs.compare import run_names
from verl_leaf.show.figures import COLOURS, save
from verl_leaf.traces.reader import read_trace, trace_files, traces_folder
from verl_leaf.traces.schema import Prompt

BINS = 10  # of the response, and at most of training
KINDS = {"fired": ("fired", COLOURS[0]), "usable": ("fired, usable", COLOURS[1])}


@dataclass(frozen=True)
class Forks:
    """What the boundaries and nodes of one run did.

    A selected boundary fires when it has a node; it is usable when some node's rewards differ (arXiv 2606.07610).

    Attributes:
        prompts: how many were read.
        boundaries: ``(step, position as a share of the response that put it there, fired, usable)`` of each.
        nodes: ``(step, responses, highest less lowest reward)`` of each.
    """

    prompts: int
    boundaries: list[tuple[int, float, bool, bool]]
    nodes: list[tuple[int, int, float]]


def collect(prompts: Iterable[tuple[int, Prompt]]) -> Forks:
    """Count what happened in pairs of a step and a prompt."""
    number, boundaries, nodes = 0, [], []
    for step, prompt in prompts:
        number += 1
        for index, boundary in enumerate(prompt.boundaries):
            relative = boundary.position / len(prompt.responses[boundary.response].tokens)
            boundaries.append((step, relative, prompt.fired(index), prompt.usable(index)))
        nodes += [(step, len(node.responses), prompt.spread(node)) for node in prompt.nodes]
    return Forks(number, boundaries, nodes)


def write_forks(runs: list[Path], out: Path, console: Console) -> None:
    """Write figure and numbers of runs side by side, and a table to the terminal.

    Raises:
        ValueError: a run has no traces, or none with a boundary.
    """
    forks: dict[str, Forks] = {}
    skipped: list[str] = []
    for name, run in zip(run_names(runs), runs, strict=True):
        files = trace_files(traces_folder(run))
        traces = (
            read_trace(step, file, skipped)
            for step, file in track(
                files.items(), f"Reading {name}", console=console, transient=True, disable=not console.is_terminal
            )
        )
        forks[name] = collect((trace.step, prompt) for trace in traces for prompt in trace.prompts.values())
        if not forks[name].boundaries:
            raise ValueError(f"{run}: its traces hold no boundary: {'; '.join(skipped[:3]) or 'is fork_budget 0?'}")
    rows = [{"run": name, **row} for name, own in forks.items() for row in measures(own)]
    save(out, _figure(forks, rows), rows, console)
    console.print(_table(forks, rows))
    for sentence in skipped:
        console.print(f"Could not be read: {sentence}", markup=False, soft_wrap=True)


def measures(forks: Forks) -> list[dict]:
    """All numbers of the figure, one a row.

    ``low`` and ``high`` are, for shares, the 95 % Wilson interval (which takes the boundaries of a prompt for
    independent), and for nodes the quartiles around the mean.
    """
    rows = []
    for kind, column in (("fired", 2), ("usable", 3)):
        flags = [(row[0], row[1], row[column]) for row in forks.boundaries]
        rows.append(_share(kind, "all", 0.0, 1.0, [flag for *_, flag in flags]))
        for index in range(BINS):
            low, high = index / BINS, (index + 1) / BINS
            rows.append(_share(kind, "position", low, high, [flag for _, at, flag in flags if low <= at < high]))
        for low, high in _step_bins([step for step, *_ in flags]):
            rows.append(_share(kind, "step", low, high, [flag for step, _, flag in flags if low <= step <= high]))
    for kind, column in (("node_size", 1), ("reward_spread", 2)):
        by_step = defaultdict(list)
        for node in forks.nodes:
            by_step[node[0]].append(node[column])
        values = [value for own in by_step.values() for value in own]
        rows.append(_spread(kind, "all", 0.0, 1.0, values))
        for low, high in _step_bins(list(by_step)):
            rows.append(
                _spread(
                    kind, "step", low, high, [v for step, own in by_step.items() if low <= step <= high for v in own]
                )
            )
    return [row for row in rows if row["count"]]


def _step_bins(steps: list[int]) -> list[tuple[int, int]]:
    """Stretches of training with about as many traced steps each, as their first and last step."""
    distinct = sorted(set(steps))
    if not distinct:
        return []
    return [(int(part[0]), int(part[-1])) for part in np.array_split(distinct, min(BINS, len(distinct)))]


def _share(kind: str, over: str, start: float, end: float, flags: list[bool]) -> dict:
    value = low = high = None
    if flags:
        result = binomtest(sum(flags), len(flags))
        interval = result.proportion_ci(0.95, method="wilson")
        value, low, high = result.statistic, interval.low, interval.high
    return {
        **{"measure": kind, "over": over, "from": start, "to": end},
        **{"count": len(flags), "value": value, "low": low, "high": high},
    }


def _spread(kind: str, over: str, start: float, end: float, values: list[float]) -> dict:
    value = low = high = None
    if values:
        value = statistics.fmean(values)
        low, high = (float(quartile) for quartile in np.quantile(values, (0.25, 0.75)))
    return {
        **{"measure": kind, "over": over, "from": start, "to": end},
        **{"count": len(values), "value": value, "low": low, "high": high},
    }


def _figure(forks: dict[str, Forks], rows: list[dict]) -> Figure:
    figure = Figure(figsize=(3.6 * len(forks) + 0.6, 8.4), layout="constrained")
    panels = (
        ("position", KINDS, "position in the response", "share of boundaries"),
        ("step", KINDS, "step", "share of boundaries"),
        ("step", {"node_size": ("mean, quartiles", COLOURS[2])}, "step", "responses a node"),
        ("step", {"reward_spread": ("mean, quartiles", COLOURS[3])}, "step", "reward spread in a node"),
    )
    axes = figure.subplots(len(panels), len(forks), sharey="row", squeeze=False)
    for column, (name, own) in enumerate(forks.items()):
        axes[0][column].set_title(f"{name}: {len(own.boundaries)} boundaries", fontsize=9)
        for axis, (over, kinds, x_label, y_label) in zip(axes[:, column], panels, strict=True):
            for kind, (label, colour) in kinds.items():
                points = [row for row in rows if (row["run"], row["measure"], row["over"]) == (name, kind, over)]
                middle = [(row["from"] + row["to"]) / 2 for row in points]
                axis.plot(middle, [row["value"] for row in points], "o-", color=colour, label=label, markersize=3)
                low, high = ([row[end] for row in points] for end in ("low", "high"))
                axis.fill_between(middle, low, high, color=colour, alpha=0.18, linewidth=0)
            axis.set_xlabel(x_label, fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.25)
            if column == 0:
                axis.set_ylabel(y_label, fontsize=8)
                axis.legend(fontsize=7, frameon=False)
            if over == "position":
                axis.set_xlim(0, 1)
            if kinds is KINDS:
                axis.set_ylim(0, 1)
    return figure


def _table(forks: dict[str, Forks], rows: list[dict]) -> Table:
    table = Table(title="Boundaries and nodes (95 % Wilson intervals)")
    for name in ("run", "prompts", "boundaries", "fired", "usable", "responses a node", "reward spread"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for name, own in forks.items():
        total = {row["measure"]: row for row in rows if row["run"] == name and row["over"] == "all"}
        shares = [
            f"{100 * row['value']:.0f} % ({100 * row['low']:.0f}-{100 * row['high']:.0f})"
            for row in (total["fired"], total["usable"])
        ]
        nodes = [f"{total[kind]['value']:.2f}" if kind in total else "" for kind in ("node_size", "reward_spread")]
        table.add_row(name, str(own.prompts), str(len(own.boundaries)), *shares, *nodes)
    return table
