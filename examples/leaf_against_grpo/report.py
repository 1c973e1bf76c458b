"""Report the study's results: numbers and figures.

    python -m examples.leaf_against_grpo.report [--runs FOLDER] [--out FOLDER]

Write `report.md` (the tables), `cells.csv` (a row per cell), `curves.csv` (reward, KL and more of every step), and figures:

- `curves`: learning curves;
- `rates`: the sweep of learning rates;
- `gain`: each method's gain, against properties of the task;
- `pairs`: differences from both baselines, with those that could be detected;
- `kl`: reward against the KL divergence from the model that training starts from;
- `scale`: the root mean square of advantages over steps.

The last two show only cells whose runs logged these metrics. Also write `runs.tar.gz`, the part of the finished cells' runs
from which the report can be made again, or the study continued, elsewhere.
"""

import argparse
import io
import itertools
import json
import statistics
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import brentq
from scipy.stats import nct, t, ttest_1samp

from examples.leaf_against_grpo.cells import (
    BASELINE,
    BASELINES,
    COST,
    EARLY_TASK,
    METHODS,
    MORE_SEEDS,
    RATES,
    ROLLOUTS_PER_STEP,
    SCALE_RATE,
    SCALE_TASKS,
    SCORES,
    SECOND_PAIRS,
    SEEDS,
    STARTS,
    STEPS,
    SWEEP,
    SWEEP_SEEDS,
    TASKS,
    Cell,
    possible,
    reported,
)
from verl_leaf.common.console import Console
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import Scalars, read_scalars
from verl_leaf.runs.summary import read_validation
from verl_leaf.runs.traces import read_trace, trace_files, traces_folder
from verl_leaf.show.advantages import step_advantages
from verl_leaf.show.curves import REWARD, SMOOTH, crossing, mean_and_interval, smoothed
from verl_leaf.show.figures import COLOURS, save, write_csv
from verl_leaf.show.forks import collect, measures
from verl_leaf.training.traces.schema import Prompt

PROJECT = Path(__file__).resolve().parents[2]
PHASES = ("gen", "old_log_prob", "ref", "update_actor", "update_weights")
KL, RMS = "actor/kl_loss", "study/advantage_rms"
UPDATES = (KL, "actor/pg_clipfrac", "actor/grad_norm", "actor/entropy", RMS)
KEPT = (REWARD, "forks/early", "training/rollout_probs_diff_max", "timing_s/", *UPDATES)
"""Prefixes of the scalars that `runs.tar.gz` keeps."""
COLOUR = dict(zip(METHODS, COLOURS, strict=False))
GROUPS = (*((task, 8) for task in TASKS), (EARLY_TASK, 16))
"""The groups that are compared: a task, and the number of responses per prompt."""

Numbers = dict[Cell, dict]


def area(folder: RunFolder) -> float:
    """Return the mean reward of all rollouts of a cell: the area under its learning curve, divided by its length."""
    return statistics.fmean(read_scalars(folder.metrics)[REWARD].values())


def write(runs: Path, out: Path, console: Console) -> None:
    """Read the cells that are done and write their report."""
    folders = {cell: RunFolder(runs / cell.name) for cell in possible()}
    scalars = {cell: read_scalars(folder.metrics) for cell, folder in folders.items() if folder.finished}
    measured = {cell: measure(folders[cell], cell, own) for cell, own in scalars.items() if cell.rate and cell != COST}
    starts = {cell.task: start(folders[cell]) for cell in STARTS if cell in scalars}
    if not measured:
        console.print("There is nothing to report yet: no cell that trains is done")
        return
    out.mkdir(parents=True, exist_ok=True)
    pack(folders, scalars, out / "runs.tar.gz")
    write_csv(out / "cells.csv", [vars(cell) | own for cell, own in measured.items()])
    compared = None  # until the sweep has chosen the learning rates
    if all(cell in measured for cell in SWEEP):
        chosen = reported(lambda cell: measured[cell]["area"])
        compared = {cell: measured[cell] for cell in chosen if cell in measured}
    text = "\n\n".join(tables(measured, compared, starts, scalars)) + "\n"
    (out / "report.md").write_text(text)
    console.print(text)
    if rows := list(rate_rows(measured)):
        save(out / "rates", rates(measured), rows, console)
    if compared:
        save(out / "curves", curves(scalars, compared), list(curve_rows(scalars)), console)
    if compared and (pairs := paired_rows(compared)):
        save(out / "pairs", pairs_figure(pairs), pairs, console)
    if moved := list(moved_rows(scalars)):
        for name, x, y, axis in (("kl", "kl", "reward", "KL divergence"), ("scale", "step", "rms", "step")):
            save(out / name, moved_figure(moved, x, y, axis), moved, console)
    if compared and len(starts) == len(TASKS) and (rows := gains(compared, starts)):
        save(out / "gain", gain_figure(rows), rows, console)


def pack(folders: dict[Cell, RunFolder], scalars: dict[Cell, Scalars], file: Path) -> None:
    """Pack what the report reads of the cells that are done; in an unpacked archive, these cells are done, too.

    Paths inside the project are stored relative to it, so that they are valid on other machines.
    """
    with tarfile.open(file, "w:gz") as archive:

        def add(name: str, content: bytes) -> None:
            content = content.replace(f"{PROJECT}/".encode(), b"")
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        for cell, own in scalars.items():
            folder = folders[cell]
            kept = {name: values for name, values in own.items() if name.startswith(KEPT)}
            steps = [
                {"step": step, "data": {name: values[step] for name, values in kept.items() if step in values}}
                for step in sorted(own[REWARD])
            ]
            add(f"{cell.name}/metrics/000.jsonl", "".join(json.dumps(step) + "\n" for step in steps).encode())
            traces = sorted(folder.traces.iterdir()) if cell in STARTS else []
            for path in (folder.summary, *sorted(folder.validation.iterdir()), *traces):
                add(f"{cell.name}/{path.relative_to(folder.path)}", path.read_bytes())


def measure(folder: RunFolder, cell: Cell, scalars: Scalars) -> dict[str, float | None]:
    """Return the numbers of one cell.

    `bleu` and `reward` are measured on the unseen test set after the last step; `area` is the mean reward of all rollouts.
    `rollouts_to_1` and `_2` are the rollouts until the mean reward of 5 steps reached the task's first and second score,
    empty if it never did. `early` is the mean over the steps, for our own estimators.
    """
    end = read_validation(folder.answers_of(STEPS), has_swapped=False)[0]
    means = dict(sorted(smoothed(scalars[REWARD]).items())[SMOOTH - 1 :])  # a step alone may be high by chance
    reached = [crossing(means, score) for score in SCORES[cell.task]]
    early = scalars.get("forks/early")
    return {
        "bleu": end["bleu"],
        "reward": end["reward"],
        "area": statistics.fmean(scalars[REWARD].values()),
        **{f"rollouts_to_{place}": step and step * ROLLOUTS_PER_STEP for place, step in enumerate(reached, 1)},
        "early": statistics.fmean(early.values()) if early else None,
        "probs_diff_max": max(scalars["training/rollout_probs_diff_max"].values()),
    }


def start(folder: RunFolder) -> dict:
    """Return `early`, `usable` (share of usable forks) and `scale` before training, the first two with 95 % intervals."""
    files = trace_files(traces_folder(folder.path)).items()
    prompts = [(step, prompt) for step, file in files for prompt in read_trace(step, file, []).prompts.values()]
    whole = {row["measure"]: row for row in measures(collect(prompts)) if row["over"] == "all"}
    found = {name: tuple(whole[name][key] for key in ("value", "low", "high")) for name in ("early", "usable")}
    found["scale"] = scale(prompts)
    before = read_validation(folder.answers_of(0), has_swapped=False)[0]
    return found | {name: (before[name],) * 3 for name in ("bleu", "reward")}


def scale(prompts: list[tuple[int, Prompt]]) -> dict[str, float]:
    """Return the root mean square of each method's advantages, in which responses have equal weight, as in the loss."""
    squares: dict[str, list[float]] = {}
    for _, own in itertools.groupby(prompts, key=lambda each: each[0]):
        step = [prompt for _, prompt in own]
        for prompt, advantages in zip(step, step_advantages(step), strict=True):
            of_method = {method: advantages.tokens[method] for method in METHODS if method in advantages.tokens}
            of_method["grpo"] = [[value] for value in advantages.grpo]
            of_method["leaf"] = [
                [span.advantage for span in response.spans for _ in range(span.start, span.end)]
                for response in prompt.responses
            ]
            for method, responses in of_method.items():
                squares.setdefault(method, []).extend(statistics.fmean(x * x for x in tokens) for tokens in responses)
    return {method: statistics.fmean(squares[method]) ** 0.5 for method in METHODS}


def tables(measured: Numbers, compared: Numbers | None, starts: dict, scalars: dict[Cell, Scalars]) -> Iterable[str]:
    """Yield the report's tables, as Markdown."""
    yield before_training(starts)
    if compared is None:
        yield "**Methods** are compared when the sweep is done, which chooses their learning rates"
    else:
        for group in GROUPS:
            yield comparison(*group, compared)
        if rows := paired_rows(compared):
            yield power(rows)
            yield both_sets(compared)
    if text := second_study(measured):
        yield text
    yield sweep(measured)
    yield cost(scalars.get(COST))


def before_training(starts: dict) -> str:
    """Describe each task for the model that all cells start from."""
    rows = []
    for task, own in starts.items():
        intervals = [f"{own[name][0]:.2f} ({own[name][1]:.2f} to {own[name][2]:.2f})" for name in ("early", "usable")]
        rows.append([task, *intervals, f"{own['reward'][0]:.3f}", f"{own['bleu'][0]:.1f}"])
    text = f"**Before training**\n\n{markdown(['task', 'early', 'usable forks', 'reward', 'BLEU'], rows)}"
    scales = [[task, *(f"{own['scale'][method]:.2f}" for method in METHODS)] for task, own in starts.items()]
    return f"{text}\n\n**Root mean square of advantages**, before training\n\n{markdown(['task', *METHODS], scales)}"


def differences(compared: Numbers, task: str, n: int, method: str, key: str, baseline: str = BASELINE) -> list[float]:
    """Return how far a method is above a baseline, for each seed that both have."""
    own, base = (
        {
            cell.seed: values[key]
            for cell, values in compared.items()
            if (cell.task, cell.n, cell.method) == (task, n, m)
        }
        for m in (method, baseline)
    )
    return [own[seed] - base[seed] for seed in SEEDS if seed in own and seed in base]


def comparison(task: str, n: int, compared: Numbers) -> str:
    """Compare the methods on one task."""
    header = ["method", "learning rate", "seeds", "area", "reward", "BLEU"]
    header += [f"{name} above GRPO's" for name in ("area", "reward", "BLEU")]
    header += [f"{name} above `grpo_floored`'s" for name in ("area", "BLEU")]
    header += [f"rollouts to {score}" for score in SCORES[task]]
    rows = []
    for method in METHODS:
        own = {cell: v for cell, v in compared.items() if (cell.task, cell.n, cell.method) == (task, n, method)}
        if not own:
            continue
        row = [f"`{method}`", f"{next(iter(own)).rate:g}", len(own)]
        row += [spread([values[key] for values in own.values()], key) for key in ("area", "reward", "bleu")]
        for key in ("area", "reward", "bleu"):
            row.append("" if method == BASELINE else spread(differences(compared, task, n, method, key), key))
        for key in ("area", "bleu"):
            row.append(
                "" if method in BASELINES else spread(differences(compared, task, n, method, key, BASELINES[1]), key)
            )
        rows.append([*row, *(reached([values[f"rollouts_to_{place}"] for values in own.values()]) for place in (1, 2))])
    if not rows:
        return f"**{task}**, K = {n}: no cell is done"
    return f"**{task}**, K = {n}\n\n{markdown(header, rows)}"


def paired_rows(compared: Numbers) -> list[dict]:
    """Return a row per group, measure, baseline and method with at least 3 pairs: mean difference, interval and spread."""
    rows = []
    for (task, n), key, (place, baseline) in itertools.product(GROUPS, ("bleu", "area"), enumerate(BASELINES)):
        for method in METHODS:
            values = differences(compared, task, n, method, key, baseline)
            if method not in BASELINES[: place + 1] and len(values) > 2:
                mean, half = mean_and_interval(values)
                row = {"task": task, "n": n, "measure": key, "baseline": baseline, "method": method}
                rows.append(
                    row | {"pairs": len(values), "mean": mean, "half": half, "deviation": statistics.stdev(values)}
                )
    return rows


def detectable(deviation: float, pairs: int, power: float = 0.8) -> float:
    """Return the mean difference that a two-sided paired t-test at 5 % finds with a probability of `power`."""
    limit = t.ppf(0.975, pairs - 1)
    shift = brentq(lambda shift: nct.sf(limit, pairs - 1, shift) - power, 0, 20)
    return shift * deviation / pairs**0.5


def pooled(rows: list[dict]) -> float:
    """Return the standard deviation of differences, pooled over methods."""
    return statistics.fmean(row["deviation"] ** 2 for row in rows) ** 0.5


def power(rows: list[dict]) -> str:
    """Return the differences from GRPO that could have been detected, and those that 20 seeds could detect."""
    lines = []
    for (task, n), key in itertools.product(GROUPS, ("bleu", "area")):
        own = [
            row for row in rows if (row["task"], row["n"], row["measure"], row["baseline"]) == (task, n, key, BASELINE)
        ]
        if own:
            deviation, pairs = pooled(own), own[0]["pairs"]
            values = (deviation, detectable(deviation, pairs), detectable(deviation, 20))
            digits = 1 if key == "bleu" else 3
            lines.append([f"{task}, K = {n}", key, pairs, *(f"{value:.{digits}f}" for value in values)])
    note = "The difference to GRPO that a paired t-test at 5 % finds in four of five studies; deviations pooled over methods."
    header = ["task", "measure", "pairs", "standard deviation of a difference", "detectable", "with 20 pairs"]
    return f"**What could have been seen**. {note}\n\n{markdown(header, lines)}"


def both_sets(compared: Numbers) -> str:
    """Compare BLEU with GRPO's on the task with early decisions; K = 8 and 16 are two independent sets."""
    lines = []
    for method in METHODS[1:]:
        sets = [differences(compared, EARLY_TASK, n, method, "bleu") for n in (8, 16)]
        if all(len(values) > 2 for values in sets):
            squares = [statistics.variance(values) / len(values) for values in sets]
            freedom = sum(squares) ** 2 / sum(s**2 / (len(v) - 1) for s, v in zip(squares, sets, strict=True))  # Welch
            mean, error = statistics.fmean(map(statistics.fmean, sets)), sum(squares) ** 0.5 / 2
            above = sum(value > 0 for values in sets for value in values)
            half, p = t.ppf(0.975, freedom) * error, 2 * t.sf(abs(mean) / error, freedom)
            lines.append([f"`{method}`", f"{mean:+.1f} ± {half:.1f}", f"{p:.4f}", f"{above} of {sum(map(len, sets))}"])
    header = ["method", "BLEU above GRPO's", "p", "pairs above"]
    return f"**{EARLY_TASK}**, K = 8 and K = 16 together, as two independent sets\n\n{markdown(header, lines)}"


def second_study(measured: Numbers) -> str | None:
    """Return the second study's differences, for seeds with both cells; None if fewer than three have both."""
    lines = []
    for method, baseline in SECOND_PAIRS:
        for name, tasks in (*((task, (task,)) for task in SCALE_TASKS), ("mean of both", SCALE_TASKS)):
            cells = {
                seed: [[Cell(task, m, SCALE_RATE, seed) for m in (method, baseline)] for task in tasks]
                for seed in MORE_SEEDS
            }
            whole = [pairs for pairs in cells.values() if all(cell in measured for pair in pairs for cell in pair)]
            if len(whole) > 2:
                line = [f"`{method}` - `{baseline}`", name, len(whole)]
                for key in ("area", "bleu"):
                    values = [
                        statistics.fmean(measured[a][key] - measured[b][key] for a, b in pairs) for pairs in whole
                    ]
                    line += [spread(values, key), f"{ttest_1samp(values, 0).pvalue:.4f}"]
                lines.append(line)
    header = ["difference", "task", "seeds", "area", "p", "BLEU", "p"]
    return f"**Second study**, learning rate {SCALE_RATE:g}\n\n{markdown(header, lines)}" if lines else None


def sweep(measured: Numbers) -> str:
    """Return the areas that choose the learning rates."""
    rows = [
        [task, f"`{method}`", *(spread(values, "area") for values in by_rate.values())]
        for task, method, by_rate in swept(measured)
    ]
    note = f"Areas of seeds {' and '.join(map(str, SWEEP_SEEDS))}, of which each method's best mean is taken."
    return f"**Learning rates**. {note}\n\n{markdown(['task', 'method', *(f'{rate:g}' for rate in RATES)], rows)}"


def swept(measured: Numbers) -> Iterator[tuple[str, str, dict[float, list[float]]]]:
    """Yield, for each task and method, the areas of the sweep's seeds by learning rate."""
    for task in TASKS:
        for method in METHODS:
            cells = {rate: [Cell(task, method, rate, seed) for seed in SWEEP_SEEDS] for rate in RATES}
            yield (
                task,
                method,
                {rate: [measured[cell]["area"] for cell in own if cell in measured] for rate, own in cells.items()},
            )


def cost(scalars: Scalars | None) -> str:
    """Return seconds per step, all estimators side by side on the same rollouts."""
    if scalars is None:
        return f"**Cost**: the cell `{COST.name}` is not done"
    names = (*PHASES, "step", "adv", *(f"adv_{method}" for method in METHODS))
    # The first steps warm up.
    seconds = {name: statistics.median(list(scalars[f"timing_s/{name}"].values())[2:]) for name in names}
    rest = seconds["step"] - seconds["adv"]
    whole = {method: rest + seconds[f"adv_{method}"] for method in METHODS}
    rows = [
        ["advantage", *(f"{seconds[f'adv_{method}']:.3f}" for method in METHODS)],
        ["whole step", *(f"{whole[method]:.3f}" for method in METHODS)],
        ["relative", *(f"{whole[method] / whole[BASELINE]:.3f}" for method in METHODS)],
    ]
    others = ", ".join(f"{phase} {seconds[phase]:.3f}" for phase in PHASES)
    return f"**Cost**: median seconds per step; of which {others}\n\n{markdown(['', *METHODS], rows)}"


def spread(values: list[float], key: str) -> str:
    """Format the mean and half the width of its 95 % interval, or the values themselves if there are fewer than 3."""
    digits = 1 if key == "bleu" else 3
    if len(values) < 3:
        return ", ".join(f"{value:.{digits}f}" for value in values)
    mean, half = mean_and_interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def reached(rollouts: list[int | None]) -> str:
    """Format the median over seeds if all reached the score, otherwise the number that did."""
    if None in rollouts:
        return f"{sum(value is not None for value in rollouts)} of {len(rollouts)} did"
    return f"{statistics.median(rollouts):.0f}"


def markdown(header: list[str], rows: list[list]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (header, ["---"] * len(header), *rows))


def curve_rows(scalars: dict[Cell, Scalars]) -> Iterator[dict]:
    """Yield the mean reward of each step's rollouts, and the metrics of its updates."""
    for cell, own in scalars.items():
        for step, value in own[REWARD].items():
            row = {"cell": cell.name, "step": step, "reward": value, "early": own.get("forks/early", {}).get(step)}
            yield row | {name.partition("/")[2]: own.get(name, {}).get(step) for name in UPDATES}


def curves(scalars: dict[Cell, Scalars], compared: Numbers) -> Figure:
    """Draw learning curves, each method at its own learning rate."""
    groups = [group for group in GROUPS if any((cell.task, cell.n) == group for cell in compared)]
    figure = Figure(figsize=(3.6 * len(groups), 3.4), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, (task, n) in zip(axes, groups, strict=True):
        for method in METHODS:
            chosen = [cell for cell in compared if (cell.task, cell.n, cell.method) == (task, n, method)]
            if not chosen:
                continue
            own = [smoothed(scalars[cell][REWARD]) for cell in chosen]
            points = {step: mean_and_interval([curve[step] for curve in own]) for step in sorted(own[0])}
            x = [step * ROLLOUTS_PER_STEP for step in points]
            axis.plot(x, [mean for mean, _ in points.values()], color=COLOUR[method], label=method)
            low, high = ([mean + side * half for mean, half in points.values()] for side in (-1, 1))
            axis.fill_between(x, low, high, color=COLOUR[method], alpha=0.1, linewidth=0)
        _label(axis, f"{task}, K = {n}", "rollouts")
    axes[0].set_ylabel("reward of the rollouts, mean of 5 steps")
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def rate_rows(measured: Numbers) -> Iterator[dict]:
    """Yield the sweep, a row per cell."""
    for task, method, by_rate in swept(measured):
        for rate, values in by_rate.items():
            for value in values:
                yield {"task": task, "method": method, "rate": rate, "area": value}


def rates(measured: Numbers) -> Figure:
    """Draw the sweep of learning rates."""
    figure = Figure(figsize=(3.6 * len(TASKS), 3.2), layout="constrained")
    axes = figure.subplots(1, len(TASKS))
    for axis, task in zip(axes, TASKS, strict=True):
        for _, method, by_rate in (each for each in swept(measured) if each[0] == task):
            means = {rate: statistics.fmean(values) for rate, values in by_rate.items() if values}
            axis.plot(list(means), list(means.values()), "o-", color=COLOUR[method], label=method, markersize=4)
            for rate, values in by_rate.items():
                axis.plot([rate] * len(values), values, ".", color=COLOUR[method], alpha=0.4)
        axis.set_xscale("log")
        axis.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        axis.minorticks_off()
        _label(axis, task, "learning rate")
    axes[0].set_ylabel("mean reward of all rollouts")
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def gains(compared: Numbers, starts: dict) -> list[dict]:
    """Return the gain of each method in area, beside its task's numbers before training."""
    rows = []
    for task, n in GROUPS:
        for method in METHODS:
            values = differences(compared, task, n, method, "area")
            if method != BASELINE and values:
                gain, half = mean_and_interval(values)
                own = {"task": task, "n": n, "method": method, "gain": gain, "half": half}
                rows.append(own | {name: starts[task][name][0] for name in ("early", "usable")})
    return rows


def gain_figure(rows: list[dict]) -> Figure:
    """Draw the gain in area against `early` and against the share of usable forks."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name, label in zip(
        axes, ("early", "usable"), ("early, at the start", "usable forks, at the start"), strict=True
    ):
        for place, method in enumerate(method for method in METHODS if method != BASELINE):
            for n, marker, beside in ((8, "o", 0), (16, "s", 0.02)):
                own = [row for row in rows if (row["method"], row["n"]) == (method, n)]
                if not own:
                    continue
                x = [row[name] + 0.004 * (place - 1.5) + beside for row in own]  # or they would hide each other
                axis.errorbar(
                    x,
                    [row["gain"] for row in own],
                    [row["half"] for row in own],
                    fmt=marker,
                    color=COLOUR[method],
                    label=f"{method}, K = {n}",
                    markersize=4,
                    capsize=2,
                )
        axis.axhline(0, color="black", linewidth=0.8)
        _label(axis, "", label)
    axes[0].set_ylabel("area above GRPO's")
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def pairs_figure(rows: list[dict]) -> Figure:
    """Draw the differences from both baselines with their intervals, on grey if too small to be detected."""
    groups = [group for group in GROUPS if any((row["task"], row["n"]) == group for row in rows)]
    figure = Figure(figsize=(3.4 * len(groups), 5.6), layout="constrained")
    axes = figure.subplots(2, len(groups), squeeze=False)
    for line, (key, name) in zip(axes, (("bleu", "BLEU"), ("area", "area")), strict=True):
        for axis, (task, n) in zip(line, groups, strict=True):
            own = [row for row in rows if (row["task"], row["n"], row["measure"]) == (task, n, key)]
            least = detectable(pooled([row for row in own if row["baseline"] == BASELINE]), own[0]["pairs"])
            axis.axvspan(-least, least, color="black", alpha=0.07, linewidth=0)
            axis.axvline(0, color="black", linewidth=0.8)
            for place, row in enumerate(own):
                axis.errorbar(
                    row["mean"], -place, xerr=row["half"], fmt="o", color=COLOUR[row["method"]], markersize=4, capsize=2
                )
            labels = [f"{row['method']} - {row['baseline']}" for row in own]
            axis.set_yticks([-place for place in range(len(own))], labels if axis is line[0] else [], fontsize=7)
            _label(axis, f"{task}, K = {n}" if key == "bleu" else "", name)
    return figure


def moved_rows(scalars: dict[Cell, Scalars]) -> Iterator[dict]:
    """Yield reward, KL divergence and root mean square of advantages of each step, for cells whose runs have logged them."""
    for cell, own in scalars.items():
        if cell.rate and KL in own and RMS in own:
            for step, value in smoothed(own[REWARD]).items():
                if step in own[KL] and step in own[RMS]:
                    row = {"task": cell.task, "method": cell.method, "seed": cell.seed, "n": cell.n, "step": step}
                    yield row | {"reward": value, "kl": own[KL][step], "rms": own[RMS][step]}


def moved_figure(rows: list[dict], x: str, y: str, label: str) -> Figure:
    """Draw means over the runs of a method, step by step: one number against another."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(3.6 * len(tasks), 3.4), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    names = {"reward": f"reward of the rollouts, mean of {SMOOTH} steps", "rms": "root mean square of advantages"}
    for axis, task in zip(axes, tasks, strict=True):
        for colour, method in zip(itertools.cycle(COLOURS), dict.fromkeys(row["method"] for row in rows), strict=False):
            by_step: dict[int, list[dict]] = {}
            for row in rows:
                if (row["task"], row["method"]) == (task, method):
                    by_step.setdefault(row["step"], []).append(row)
            points = [[statistics.fmean(row[key] for row in own) for key in (x, y)] for own in by_step.values()]
            axis.plot([point[0] for point in points], [point[1] for point in points], color=colour, label=method)
        _label(axis, task, label)
    axes[0].set_ylabel(names[y])
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def _label(axis: Axes, title: str, x: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x)
    axis.grid(alpha=0.25)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/leaf_against_grpo"), help="folder of the study (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: results/ beside the runs)")
    args = parser.parse_args()
    write(args.runs, args.out or args.runs / "results", Console())
