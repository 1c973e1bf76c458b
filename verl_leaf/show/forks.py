"""``verl-leaf forks``: how often boundaries fire, how large nodes are, and how far the rewards within them differ."""

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

BINS = 10  # of the response, and at most of training
DRAWS = 1000  # of a bootstrap
EARLY = 0.5  # above it, more is settled where responses first part than in all that follows
# Each panel: what its rows are over, their measures with the style of each, and its labels.
SHARES = {"fired": "o:", "usable": "o-"}
PANELS = (
    ("position", SHARES, "position in the response, as a share of it", "share of boundaries (95 %)"),
    ("token", SHARES, "tokens before the boundary", "share of boundaries (95 %)"),
    ("step", SHARES, "training step", "share of boundaries (95 %)"),
    (
        "step",
        {"early": "o-"},
        "training step",
        "early: share of the reward's variance\nthat the first fork settles (95 %)",
    ),
    ("step", {"node_size": "o-"}, "training step", "responses per node (quartiles)"),
    ("step", {"reward_spread": "o-"}, "training step", "reward spread in a node (quartiles)"),
)


class SeenBoundary(NamedTuple):
    """What a selected boundary did. It fires when it has a node, usably when some node's rewards differ."""

    step: int
    position: float  # as a share of the response that put it there
    token: int  # the same, counted from the response's first
    fired: bool
    usable: bool


class SeenNode(NamedTuple):
    """What a node held."""

    step: int
    responses: int
    spread: float  # its highest less its lowest reward


class SeenPairs(NamedTuple):
    """By how much the rewards of a prompt's pairs differ."""

    step: int
    sums: Sums  # of :class:`verl_leaf.algorithm.PairSpread`


@dataclass(frozen=True)
class RunForks:
    """The boundaries and nodes of one run (arXiv 2606.07610), the pairs of its prompts, and how many those are."""

    prompts: int
    boundaries: list[SeenBoundary]
    nodes: list[SeenNode]
    pairs: list[SeenPairs]


def collect(prompts: Iterable[tuple[int, Prompt]]) -> RunForks:
    """Look at every boundary and node in pairs of a step and a prompt."""
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
    """Write figure and numbers of runs side by side, and a table to the terminal.

    Args:
        runs: their folders, or those of their traces.
        out: path of the files, less their suffixes.
        console: for the table, and for what could not be read.

    Raises:
        ValueError: a run has no traces, or none with a boundary.
    """
    forks: dict[str, RunForks] = {}
    skipped: list[str] = []
    for name, run in zip(run_names(runs), runs, strict=True):
        folder = traces_folder(run)
        traces = read_traces(folder, trace_files(folder), f"Reading {name}", skipped, console)
        forks[name] = collect((trace.step, prompt) for trace in traces for prompt in trace.prompts.values())
        if not forks[name].boundaries:
            raise ValueError(f"{run}: its traces hold no boundary: {'; '.join(skipped[:3]) or 'is fork_budget 0?'}")
    rows = [{"run": name, **row} for name, seen in forks.items() for row in measures(seen)]
    save(out, _figure(forks, rows), rows, console)
    columns = ("run", "prompts", "boundaries", "fired", "usable", "responses per node", "reward spread", "early")
    lines = [_line(name, seen, rows) for name, seen in forks.items()]
    show("Boundaries and nodes (95 % intervals)", columns, lines, words=1, console=console)
    for name in forks:
        console.print(verdict(name, rows))
    say_skipped("Could not be read", skipped, console)


def measures(forks: RunForks) -> list[dict]:
    """All numbers of the figure, one per row.

    ``low`` and ``high`` are, for shares, the 95 % Wilson interval (which takes the boundaries of a prompt for
    independent), for nodes the quartiles around the mean, and for ``early`` the 95 % interval of a bootstrap over prompts.
    ``early`` is of the prompts whose rewards differ, and in which pairs part later than at the first fork.
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
    """Yield all that was seen, and its parts: what they are parts of, where each begins and ends, and what is in it.

    Boundaries are parted by the share of the response that lies before, and by the number of tokens. Stretches of training
    have about as many traced steps each, and go from their first step to their last.
    """
    yield "all", 0.0, 1.0, seen
    if seen and isinstance(seen[0], SeenBoundary):
        tokens = BINS * math.ceil((max(one.token for one in seen) + 1) / BINS)  # so that a bin has whole ones
        for over, end in (("position", 1.0), ("token", float(tokens))):
            for index in range(BINS):
                low, high = end * index / BINS, end * (index + 1) / BINS
                yield over, low, high, [one for one in seen if low <= getattr(one, over) < high]
    steps = sorted({one.step for one in seen})
    for part in np.array_split(steps, min(BINS, len(steps)) or 1):
        if len(part):
            first, last = int(part[0]), int(part[-1])
            yield "step", first, last, [one for one in seen if first <= one.step <= last]


Summary = Callable[[list], tuple[float, float, float]]  # of values: the middle, and an interval's two ends


def _share(flags: list[bool]) -> tuple[float, float, float]:
    """Return the share of True, and its 95 % interval."""
    share = statistics.fmean(flags)
    low, high = wilson(share, len(flags))
    return share, float(low), float(high)


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    """The mean, and the quartiles."""
    low, high = np.quantile(values, (0.25, 0.75))
    return statistics.fmean(values), float(low), float(high)


def _bootstrapped_early(pairs: list[Sums]) -> tuple[float, float, float]:
    """``early``, and the 95 % interval of drawing as many prompts again."""
    sums = np.array(pairs)

    def early(rows: np.ndarray) -> float:
        first, later, count = rows.sum(0).tolist()
        return early_share((first, later, count))

    drawn = np.random.default_rng(0).integers(0, len(pairs), (DRAWS, len(pairs)))
    low, high = np.quantile([early(sums[rows]) for rows in drawn], (0.025, 0.975))
    return early(sums), float(low), float(high)


def verdict(name: str, rows: list[dict]) -> str:
    """What ``early`` says of a run, as a sentence."""
    whole = [row for row in rows if (row["run"], row["measure"], row["over"]) == (name, "early", "all")]
    if not whole:
        return (
            f"{name}: whether tree credit helps cannot be told. In no prompt did rewards differ and responses go on together "
            "after the first fork."
        )
    (early,) = whole
    if early["low"] > EARLY:
        says = "more than half, so early decisions matter and tree credit is likely to help here"
    elif early["high"] < EARLY:
        says = "less than half, so tree credit is unlikely to do better than GRPO here"
    else:
        says = "which may be more than half or less: too few prompts to tell whether tree credit helps here"
    return (
        f"{name}: where responses first part settles {_interval(early)} of what rewards differ by, {says}. "
        "See verl_leaf/show/README.md, and the study in examples/leaf_against_grpo."
    )


def _interval(row: dict) -> str:
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _figure(forks: dict[str, RunForks], rows: list[dict]) -> Figure:
    """Return the panels, two beside each other; a colour is a run."""
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
    """Draw a run's values, each with its interval; ``aside`` in bins, so that intervals of runs do not cover each other."""
    middle = [(row["from"] + row["to"]) / 2 for row in rows]
    gap = min(np.diff(middle), default=0.0)
    x = [each + aside * gap for each in middle]
    axis.plot(x, [row["value"] for row in rows], style, color=colour, markersize=3, linewidth=1.2)
    axis.vlines(x, [row["low"] for row in rows], [row["high"] for row in rows], color=colour, alpha=0.5, linewidth=1)


def _line(name: str, forks: RunForks, rows: list[dict]) -> list[str]:
    """Return a run's cells of the table."""
    total = {row["measure"]: row for row in rows if row["run"] == name and row["over"] == "all"}
    shares = [
        f"{100 * row['value']:.0f} % ({100 * row['low']:.0f}-{100 * row['high']:.0f})"
        for row in (total["fired"], total["usable"])
    ]
    nodes = [f"{total[kind]['value']:.2f}" if kind in total else "" for kind in ("node_size", "reward_spread")]
    early = _interval(total["early"]) if "early" in total else ""
    return [name, str(forks.prompts), str(len(forks.boundaries)), *shares, *nodes, early]
