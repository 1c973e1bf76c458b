"""Forks over training: how often boundaries fire, how large nodes are, and how much the rewards in a node differ."""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from verl_leaf.algorithm.early import Sums, early_share
from verl_leaf.common.console import Console
from verl_leaf.common.intervals import wilson
from verl_leaf.common.tables import show
from verl_leaf.runs.compare import run_names
from verl_leaf.runs.traces import read_traces, trace_files, traces_folder
from verl_leaf.show import say_skipped
from verl_leaf.show.advantages import spread_of
from verl_leaf.show.figures import COLOURS, literal, save
from verl_leaf.training.traces.schema import Prompt

BINS = 10  # bins of the response, and most bins of training
DRAWS = 1000  # draws of a bootstrap
EARLY = 0.5  # above it, the first fork decides more of the reward than everything after it
# Each panel: its x axis, its measures with their styles, and its labels.
SHARES = {"fired": "o:", "usable": "o-"}
DECIDED = "early: share of the reward variance\nthat the first fork decides (95 %)"
PANELS = (
    ("position", SHARES, "position in the response (share of its length)", "share of boundaries (95 %)"),
    ("token", SHARES, "tokens before the boundary", "share of boundaries (95 %)"),
    ("step", SHARES, "training step", "share of boundaries (95 %)"),
    ("step", {"early": "o-"}, "training step", DECIDED),
    ("step", {"node_size": "o-"}, "training step", "responses per node (quartiles)"),
    ("step", {"reward_spread": "o-"}, "training step", "reward spread in a node (quartiles)"),
)


class SeenBoundary(NamedTuple):
    """A selected boundary. It fires if it has a node, and usably if the rewards of some node differ."""

    step: int
    position: float  # share of the length of the response that placed it
    token: int  # number of tokens before it
    fired: bool
    usable: bool


class SeenNode(NamedTuple):
    """A node of a tree."""

    step: int
    responses: int
    spread: float  # highest minus lowest reward


class SeenPairs(NamedTuple):
    """The spread of a prompt's rewards over pairs."""

    step: int
    sums: Sums  # sums of :class:`verl_leaf.algorithm.PairSpread`


@dataclass(frozen=True)
class RunForks:
    """The boundaries and nodes (arXiv 2606.07610) of one run, the pairs of its prompts, and its number of prompts."""

    prompts: int
    boundaries: list[SeenBoundary]
    nodes: list[SeenNode]
    pairs: list[SeenPairs]


def collect(prompts: Iterable[tuple[int, Prompt]]) -> RunForks:
    """Return every boundary and node of prompts, which are given with their steps."""
    count, boundaries, nodes, pairs = 0, [], [], []
    for step, prompt in prompts:
        count += 1
        for index, boundary in enumerate(prompt.boundaries):
            share = boundary.position / len(prompt.responses[boundary.response].tokens)
            fired, usable = prompt.fired(index), prompt.usable(index)
            boundaries.append(SeenBoundary(step, share, boundary.position, fired, usable))
        nodes += [SeenNode(step, len(node.responses), prompt.spread(node)) for node in prompt.nodes]
        pairs.append(SeenPairs(step, spread_of(prompt).sums()))
    return RunForks(count, boundaries, nodes, pairs)


def write_forks(runs: list[Path], out: Path, console: Console) -> None:
    """Write a figure and the numbers of runs side by side, and print a table.

    Args:
        runs: folders of runs, or of traces.
        out: path of the files, without suffixes.

    Raises:
        ValueError: a run has no traces, or no trace has a boundary.
    """
    forks: dict[str, RunForks] = {}
    skipped: list[str] = []
    for name, run in zip(run_names(runs), runs, strict=True):
        folder = traces_folder(run)
        traces = read_traces(folder, trace_files(folder), f"Reading {name}", skipped, console)
        forks[name] = collect((trace.step, prompt) for trace in traces for prompt in trace.prompts.values())
        if not forks[name].boundaries:
            raise ValueError(
                f"{run}: the traces contain no boundary. {'; '.join(skipped[:3]) or 'Check that fork_budget is above 0'}"
            )
    rows = [{"run": name, **row} for name, seen in forks.items() for row in measures(seen)]
    save(out, _figure(forks, rows), rows, console)
    columns = ("run", "prompts", "boundaries", "fired", "usable", "responses per node", "reward spread", "early")
    lines = [_line(name, seen, rows) for name, seen in forks.items()]
    show("Boundaries and nodes (95 % intervals)", columns, lines, words=1, console=console)
    for name in forks:
        console.print(verdict(name, rows))
    say_skipped("Could not be read", skipped, console)


def measures(forks: RunForks) -> list[dict]:
    """Return all numbers of the figure, one per row.

    ``low`` and ``high`` are, for shares, the 95 % Wilson interval, which assumes that the boundaries of a prompt are
    independent; for nodes, the quartiles around the mean; and for ``early``, the 95 % interval of a bootstrap over
    prompts. ``early`` is over the prompts in which rewards differ and some pairs stay together after the first fork.
    """
    tells = [seen for seen in forks.pairs if seen.sums[2]]
    kinds: tuple[tuple[str, list, str, Summary], ...] = (
        ("fired", forks.boundaries, "fired", _share),
        ("usable", forks.boundaries, "usable", _share),
        ("node_size", forks.nodes, "responses", _quartiles),
        ("reward_spread", forks.nodes, "spread", _quartiles),
        ("early", tells, "sums", _bootstrapped_early),
    )
    rows = []
    for measure, all_seen, field, summary in kinds:
        for over, start, end, seen in _parts(all_seen):
            if seen:
                value, low, high = summary([getattr(one, field) for one in seen])
                place = {"measure": measure, "over": over, "from": start, "to": end}
                rows.append(place | {"count": len(seen), "value": value, "low": low, "high": high})
    return rows


def _parts(seen: list) -> Iterator[tuple[str, float, float, list]]:
    """Yield all items and then parts of them: the axis, the part's ends on it, and its items.

    Boundaries are grouped by the share of the response before them, and by the number of tokens. Parts of training have
    about the same number of traced steps, and go from their first step to their last.
    """
    yield "all", 0.0, 1.0, seen
    if seen and isinstance(seen[0], SeenBoundary):
        # A bin has a whole number of tokens.
        tokens = BINS * math.ceil((max(one.token for one in seen) + 1) / BINS)
        for over, end in (("position", 1.0), ("token", float(tokens))):
            for index in range(BINS):
                low, high = end * index / BINS, end * (index + 1) / BINS
                yield over, low, high, [one for one in seen if low <= getattr(one, over) < high]
    steps = sorted({one.step for one in seen})
    for part in np.array_split(steps, min(BINS, len(steps)) or 1):
        if len(part):
            first, last = int(part[0]), int(part[-1])
            yield "step", first, last, [one for one in seen if first <= one.step <= last]


Summary = Callable[[list], tuple[float, float, float]]  # from values to their centre and the ends of an interval


def _share(flags: list[bool]) -> tuple[float, float, float]:
    share = statistics.fmean(flags)
    low, high = wilson(share, len(flags))
    return share, float(low), float(high)


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, high = np.quantile(values, (0.25, 0.75))
    return statistics.fmean(values), float(low), float(high)


def _bootstrapped_early(pairs: list[Sums]) -> tuple[float, float, float]:
    """Return ``early`` with its 95 % interval from a bootstrap over prompts."""
    sums = np.array(pairs)

    def early(rows: np.ndarray) -> float:
        first, later, count = rows.sum(0).tolist()
        return early_share((first, later, count))

    drawn = np.random.default_rng(0).integers(0, len(pairs), (DRAWS, len(pairs)))
    low, high = np.quantile([early(sums[rows]) for rows in drawn], (0.025, 0.975))
    return early(sums), float(low), float(high)


def verdict(name: str, rows: list[dict]) -> str:
    """Return a sentence on what ``early`` means for a run."""
    whole = [row for row in rows if (row["run"], row["measure"], row["over"]) == (name, "early", "all")]
    if not whole:
        return (
            f"{name}: it is unknown whether tree credit helps, because in no prompt did rewards differ and responses stay "
            "together after the first fork."
        )
    (early,) = whole
    if early["low"] > EARLY:
        says = "which is more than half: early decisions matter, and tree credit is likely to help here"
    elif early["high"] < EARLY:
        says = "which is less than half: tree credit is unlikely to do better than GRPO here"
    else:
        says = "which may be more or less than half: there are too few prompts to know whether tree credit helps here"
    return (
        f"{name}: the first fork decides {_interval(early)} of the reward variance within prompts, {says}. "
        "See verl_leaf/show/README.md and the study in examples/leaf_against_grpo."
    )


def _interval(row: dict) -> str:
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _figure(forks: dict[str, RunForks], rows: list[dict]) -> Figure:
    """Return the panels, two per row, with one colour per run."""
    figure = Figure(figsize=(7.6, 7.8), layout="constrained")
    for axis, (over, styles, x_label, y_label) in zip(figure.subplots(3, 2).flatten(), PANELS, strict=True):
        for number, (name, colour) in enumerate(zip(forks, itertools.cycle(COLOURS), strict=False)):
            for place, (measure, style) in enumerate(styles.items(), start=number * len(styles)):
                seen = [row for row in rows if (row["run"], row["over"], row["measure"]) == (name, over, measure)]
                _draw(axis, seen, style, colour, aside=0.06 * (place - (len(forks) * len(styles) - 1) / 2))
        axis.set_xlabel(x_label, fontsize=8)
        axis.set_ylabel(y_label, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        if over == "position":
            axis.set_xlim(0, 1)
        else:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if styles is SHARES:
            axis.set_ylim(-0.03, 1.03)
    for name, style in SHARES.items():
        figure.axes[0].plot([], [], style, color="black", markersize=3, label=name)
    figure.axes[0].legend(fontsize=7, frameon=False)
    counts = [f"{literal(name)}: {len(seen.boundaries)} boundaries" for name, seen in forks.items()]
    runs = figure.axes[-1].get_lines()
    figure.legend(runs, counts, loc="outside upper center", ncols=min(len(runs), 3), fontsize=8, frameon=False)
    return figure


def _draw(axis: Axes, rows: list[dict], style: str, colour: str, aside: float) -> None:
    """Draw a run's values with intervals, shifted by ``aside`` bins so that those of several runs do not overlap."""
    middle = [(row["from"] + row["to"]) / 2 for row in rows]
    gap = min(np.diff(middle), default=0.0)
    x = [centre + aside * gap for centre in middle]
    axis.plot(x, [row["value"] for row in rows], style, color=colour, markersize=3, linewidth=1.2)
    axis.vlines(x, [row["low"] for row in rows], [row["high"] for row in rows], color=colour, alpha=0.5, linewidth=1)


def _line(name: str, forks: RunForks, rows: list[dict]) -> list[str]:
    total = {row["measure"]: row for row in rows if row["run"] == name and row["over"] == "all"}
    shares = [
        f"{100 * row['value']:.0f} % ({100 * row['low']:.0f}-{100 * row['high']:.0f})"
        for row in (total["fired"], total["usable"])
    ]
    nodes = [f"{total[kind]['value']:.2f}" if kind in total else "" for kind in ("node_size", "reward_spread")]
    early = _interval(total["early"]) if "early" in total else ""
    return [name, str(forks.prompts), str(len(forks.boundaries)), *shares, *nodes, early]
