"""What the cells of the study amount to: numbers, tests, a figure.

    python -m examples.leaf_against_grpo.report [--runs FOLDER] [--task FOLDER] [--out FOLDER]

Writes `report.md` (the tables), `curves.png`, `.svg` and `.csv`, `cells.csv` (a row per cell), and `answers.jsonl.gz`
(what each cell answered to the test set at last).
"""

import argparse
import gzip
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from examples.leaf_against_grpo import credit
from examples.leaf_against_grpo.cells import (
    ABLATIONS,
    COMPARED,
    COST,
    ROLLOUTS_PER_STEP,
    SCORES,
    SEEDS,
    STEPS,
    TASKS,
    Cell,
    plan,
)
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import Scalars, read_scalars
from verl_leaf.runs.summary import read_validation
from verl_leaf.show.curves import REWARD, crossing, mean_and_interval, smoothed
from verl_leaf.show.figures import COLOURS, save, write_csv

PHASES = ("gen", "old_log_prob", "ref", "update_actor", "update_weights")
BASELINE, OURS = "grpo", "leaf"
QUALITY = ("signal_leaf", "signal_grpo", "sum_leaf", "sum_grpo")


def write(runs: Path, data: Path, out: Path, console: Console) -> None:
    """Reads the cells that are done and writes the report of them; `data` holds the tasks' parquet files."""
    folders = {cell: RunFolder(runs / cell.name) for cell in plan()}
    cells = [cell for cell, folder in folders.items() if folder.finished]
    scalars = {cell: read_scalars(folders[cell].metrics) for cell in cells}
    measured = {cell: measure(folders[cell], data, cell, scalars[cell]) for cell in cells if cell.method not in COST}
    if not measured:
        console.print(cost(scalars), markup=False, soft_wrap=True)
        return
    answers = {cell: read_answers(folders[cell]) for cell in measured}
    out.mkdir(parents=True, exist_ok=True)
    rows = [{"task": cell.task, "method": cell.method, "seed": cell.seed, **own} for cell, own in measured.items()]
    write_csv(out / "cells.csv", rows)
    with open(out / "answers.jsonl.gz", "wb") as file, gzip.GzipFile(fileobj=file, mode="w", mtime=0) as packed:
        for cell, own in answers.items():
            packed.write((json.dumps({"cell": cell.name, "answers": own}, ensure_ascii=False) + "\n").encode())
    text = "\n\n".join(tables(measured, answers, scalars)) + "\n"
    (out / "report.md").write_text(text)
    console.print(text, markup=False, soft_wrap=True)
    save(out / "curves", figure(measured, scalars), curve_rows(scalars), console)


def measure(folder: RunFolder, data: Path, cell: Cell, scalars: Scalars) -> dict[str, float | None]:
    """The numbers of one cell.

    `bleu` and `reward` are those of the unseen test set after the last step, `bleu_start` the model's before training
    where it was measured; `area` is the mean reward of all rollouts, the area under the learning curve over its length;
    `rollouts_to_x` the rollouts until the reward of the last 5 steps reached x, empty if it never did. Cells of LEAF as
    it is published also have what :func:`credit.quality` finds.
    """
    start, end = (
        read_validation(file, has_swapped=False)[0] if file.exists() else {"bleu": None, "reward": None}
        for file in (folder.answers_of(0), folder.answers_of(STEPS))
    )
    curve = smoothed(scalars[REWARD])
    reached = {score: crossing(curve, score) for score in SCORES[cell.task]}
    shares = {
        name: statistics.fmean(values.values()) if (values := scalars.get(f"leaf/{name}_share")) else None
        for name in ("fired", "usable")
    }
    return {
        "bleu_start": start["bleu"],
        "reward_start": start["reward"],
        "bleu": end["bleu"],
        "reward": end["reward"],
        "area": statistics.fmean(scalars[REWARD].values()),
        **{f"rollouts_to_{x}": step and step * ROLLOUTS_PER_STEP for x, step in reached.items()},
        **shares,
        "probs_diff_max": max(scalars["training/rollout_probs_diff_max"].values()),
        **(credit.quality(folder.path, cell.task, data) if cell.method == OURS else dict.fromkeys(QUALITY)),
    }


def read_answers(folder: RunFolder) -> list[tuple[str, str]]:
    """Answer and reference to each row of the test set after the last step, in an order that all cells share."""
    lines = folder.answers_of(STEPS).read_bytes().split(b"\n")
    rows = [json.loads(line) for line in lines if line]
    return sorted(((row["output"], row["gts"]) for row in rows), key=lambda pair: pair[1])


def curve_rows(scalars: dict[Cell, Scalars]) -> list[dict]:
    """Mean reward of each step's rollouts, and the share of boundaries that were usable forks."""
    return [
        {"cell": cell.name, "step": step, "reward": value, "usable": own.get("leaf/usable_share", {}).get(step)}
        for cell, own in scalars.items()
        for step, value in own[REWARD].items()
    ]


def differences(measured: dict[Cell, dict], task: str, method: str, base: str, key: str) -> list[float]:
    """By how much a method is above another with the same seed, for each seed that both have."""
    pairs = ((Cell(task, method, seed), Cell(task, base, seed)) for seed in SEEDS)
    return [measured[a][key] - measured[b][key] for a, b in pairs if a in measured and b in measured]


def tables(measured, answers, scalars) -> Iterable[str]:
    """The report's tables, as Markdown."""
    yield from (comparison(task, measured, answers) for task in TASKS)
    yield forks(measured)
    yield ablations(measured)
    yield cost(scalars)


def comparison(task: str, measured, answers) -> str:
    """Methods on one task, with the paired tests against GRPO."""
    starts = [own for cell, own in measured.items() if cell.task == task and own["bleu_start"] is not None]
    header = ["method", "seeds", "BLEU", "reward", "area", *(f"rollouts to {score}" for score in SCORES[task])]
    header += ["BLEU above GRPO, same seed", "area above GRPO, same seed", "p (paired bootstrap)"]
    p_values = bootstrap(task, answers)
    rows = []
    for method in COMPARED:
        own = [values for cell, values in measured.items() if (cell.task, cell.method) == (task, method)]
        if not own:
            continue
        row = [method, len(own), *(spread([values[key] for values in own], key) for key in ("bleu", "reward", "area"))]
        row += [reached([values[f"rollouts_to_{score}"] for values in own]) for score in SCORES[task]]
        for key in ("bleu", "area"):
            row.append("" if method == BASELINE else spread(differences(measured, task, method, BASELINE, key), key))
        rows.append([*row, f"{p_values[method]:.3f}" if method in p_values else ""])
    before = ""
    if starts:
        bleu, reward = (statistics.fmean(own[key] for own in starts) for key in ("bleu_start", "reward_start"))
        before = f"; before training BLEU {bleu:.1f}, reward {reward:.3f}"
    return f"**{task}**{before}\n\n{markdown(header, rows)}"


def bootstrap(task: str, answers: dict[Cell, list]) -> dict[str, float]:
    """sacrebleu's paired bootstrap: p-values of the methods' BLEU against GRPO's, over all answers of all seeds."""
    seeds = [seed for seed in SEEDS if all(Cell(task, method, seed) in answers for method in COMPARED)]
    if not seeds:
        return {}

    def joined(method: str, part: int) -> list[str]:
        return [pair[part] for seed in seeds for pair in answers[Cell(task, method, seed)]]

    methods = [BASELINE, *(method for method in COMPARED if method != BASELINE)]
    systems = [(method, joined(method, 0)) for method in methods]
    metric = {"BLEU": BLEU(lowercase=True, references=[joined(BASELINE, 1)])}
    _, scores = PairedTest(systems, metric, references=None, test_type="bs", n_samples=2000)()
    results = scores["BLEU"]
    return {method: result.p_value for method, result in zip(methods[1:], results[1:], strict=True)}


def forks(measured) -> str:
    """How forkable each task is, beside what LEAF gained on it."""
    header = ["task", "boundaries that fire", "usable forks", "BLEU above GRPO", "area above GRPO"]
    header += ["signal, LEAF", "signal, GRPO", "sum, LEAF", "sum, GRPO"]
    rows = []
    for task in TASKS:
        own = [values for cell, values in measured.items() if (cell.task, cell.method) == (task, OURS)]
        if own:
            shares = [f"{100 * statistics.fmean(values[key] for values in own):.0f} %" for key in ("fired", "usable")]
            gains = [spread(differences(measured, task, OURS, BASELINE, key), key) for key in ("bleu", "area")]
            rows.append([task, *shares, *gains, *(spread([values[key] for values in own], key) for key in QUALITY)])
    note = "Signal and sum, on the same rollouts of the LEAF runs: see `credit.py`."
    return f"**Forks, gain and signal**. {note}\n\n{markdown(header, rows)}"


def ablations(measured) -> str:
    """Variants of LEAF, and of GRPO with other K, on the first task."""
    header = ["variant", "seeds", "BLEU", "area", "usable forks", "area above leaf", "area above grpo"]
    rows = []
    for method in (OURS, BASELINE, *ABLATIONS):
        own = [values for cell, values in measured.items() if (cell.task, cell.method) == (TASKS[0], method)]
        if not own:
            continue
        usable = [values["usable"] for values in own if values["usable"] is not None]
        row = [method, len(own), *(spread([values[key] for values in own], key) for key in ("bleu", "area"))]
        row.append(f"{100 * statistics.fmean(usable):.0f} %" if usable else "")
        for base in (OURS, BASELINE):
            row.append("" if method == base else spread(differences(measured, TASKS[0], method, base, "area"), "area"))
        rows.append(row)
    return f"**Ablations** on {TASKS[0]}\n\n{markdown(header, rows)}"


def cost(scalars) -> str:
    """Seconds per step, both estimators side by side on the same rollouts."""
    found = [own for cell, own in scalars.items() if cell.method in COST]
    if not found:
        return "**Cost**: the cell `translation/cost/1` is not done"
    seconds = {
        phase: statistics.median(list(found[0][f"timing_s/{phase}"].values())[2:])  # the first ones warm up
        for phase in (*PHASES, "step", "adv", "adv_grpo", "adv_leaf")
    }
    rest = seconds["step"] - seconds["adv"]
    whole = {method: rest + seconds[f"adv_{method}"] for method in ("grpo", "leaf")}
    rows = [[phase, f"{seconds[phase]:.3f}", f"{seconds[phase]:.3f}", ""] for phase in PHASES]
    for name, grpo, leaf in (
        ("advantage", seconds["adv_grpo"], seconds["adv_leaf"]),
        ("whole step", whole["grpo"], whole["leaf"]),
    ):
        rows.append([name, f"{grpo:.3f}", f"{leaf:.3f}", f"{leaf / grpo:.3f}"])
    return f"**Cost**: median seconds per step\n\n{markdown(['phase', 'grpo', 'leaf', 'leaf / grpo'], rows)}"


def spread(values: list[float], key: str) -> str:
    """Mean and half the width of its 95 % interval; of fewer than 3 values themselves."""
    digits = 1 if key == "bleu" else 3
    if len(values) < 3:
        return ", ".join(f"{value:.{digits}f}" for value in values)
    mean, half = mean_and_interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def reached(rollouts: list[int | None]) -> str:
    """Median over seeds, where all reached the score; else how many did."""
    if None in rollouts:
        return f"{sum(value is not None for value in rollouts)} of {len(rollouts)} did"
    return f"{statistics.median(rollouts):.0f}"


def markdown(header: list[str], rows: list[list]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (header, ["---"] * len(header), *rows))


def figure(measured, scalars) -> Figure:
    """Learning curves of the tasks, and what the ablations' curves enclose."""
    drawn = Figure(figsize=(12, 3.6), layout="constrained")
    *curves, bars = drawn.subplots(1, len(TASKS) + 1, width_ratios=[1] * len(TASKS) + [1.1])
    for axis, task in zip(curves, TASKS, strict=True):
        for method, colour in zip(COMPARED, COLOURS, strict=False):
            own = [smoothed(scalars[cell][REWARD]) for cell in measured if (cell.task, cell.method) == (task, method)]
            if not own:
                continue
            steps = sorted(own[0])
            points = [mean_and_interval([curve[step] for curve in own]) for step in steps]
            x = [step * ROLLOUTS_PER_STEP for step in steps]
            axis.plot(x, [mean for mean, _ in points], color=colour, label=f"{method} ({len(own)} seeds)")
            low, high = [mean - half for mean, half in points], [mean + half for mean, half in points]
            axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(task, fontsize=10)
        axis.set_xlabel("rollouts")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
    curves[0].set_ylabel("reward of the rollouts, mean of 5 steps")
    shown = [method for method in ABLATIONS if differences(measured, TASKS[0], method, OURS, "area")]
    for place, method in enumerate(reversed(shown)):
        values = differences(measured, TASKS[0], method, OURS, "area")
        bars.plot(values, [place] * len(values), "o", color=COLOURS[0])
    bars.axvline(0, color="black", linewidth=0.8)
    bars.set_yticks(range(len(shown)), list(reversed(shown)))
    bars.set_title(f"{TASKS[0]}: area above leaf's (B 2, K 8), each seed", fontsize=10)
    bars.grid(alpha=0.25)
    return drawn


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/leaf_against_grpo"), help="the study's (default: %(default)s)"
    )
    parser.add_argument("--task", type=Path, default=Path("work/leaf_against_grpo"), help="what prepare.py has made")
    parser.add_argument("--out", type=Path, help="folder to write (default: report/ beside the runs)")
    args = parser.parse_args()
    write(args.runs, args.task / "data", args.out or args.runs / "report", Console())
