"""Compare the ranking of estimators by `verl-leaf credit`, before training, with the study's: rank correlations.

python -m examples.leaf_against_grpo.predicts TASK=FOLDER [TASK=FOLDER ...] [--pairs results/pairs.csv]

A folder is what `verl-leaf credit --out` has written for the task's test set and the model that all cells start from.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from examples.leaf_against_grpo.cells import BASELINE


def pairs_of(task: str, folder: Path, gains: list[dict[str, str]], measure: str) -> list[tuple[float, float]]:
    """Return the pairs of a step's gain and training's gain, both relative to GRPO with K = 8, of methods that have both."""
    estimators = json.loads((folder / "credit.json").read_text())["estimators"]
    signal = {row["estimator"]: row["relative"] for row in estimators}
    wanted = {"task": task, "n": "8", "measure": measure, "baseline": BASELINE}
    own = [row for row in gains if all(row[key] == value for key, value in wanted.items())]
    return [(signal[row["method"]], float(row["mean"])) for row in own]


def correlations(known: list[list[tuple[float, float]]]) -> str:
    """Describe the correlation over all pairs of task and method, with a bootstrap over tasks, and within a task."""

    def rank(tasks: Iterable[int]) -> float:
        return float(spearmanr(*zip(*(pair for task in tasks for pair in known[task]), strict=True)).statistic)

    draws = np.random.default_rng(0).integers(0, len(known), (1000, len(known)))
    low, high = np.quantile([rank(tasks) for tasks in draws], (0.025, 0.975))
    within = statistics.fmean(spearmanr(*zip(*pairs, strict=True)).statistic for pairs in known)
    count = sum(map(len, known))
    return f"{rank(range(len(known))):.2f} ({low:.2f} to {high:.2f}) over {count} pairs; {within:.2f} within a task"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="TASK=FOLDER")
    parser.add_argument(
        "--pairs",
        type=Path,
        default=Path(__file__).parent / "results/pairs.csv",
        help="pairs.csv of the report (default: %(default)s)",
    )
    args = parser.parse_args()
    folders = {task: Path(folder) for task, _, folder in (each.partition("=") for each in args.folders)}
    gains = list(csv.DictReader(args.pairs.open()))
    for measure in ("area", "bleu"):
        print(
            f"{measure}: {correlations([pairs_of(task, folder, gains, measure) for task, folder in folders.items()])}"
        )
