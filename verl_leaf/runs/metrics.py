"""The metrics that verl's file logger has written in a run: one JSON line per step."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_leaf.common.files import check_inside

MOST_STEPS = 10**12
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

# A data source may contain any characters, also slashes (verl/trainer/ppo/v1/trainer_base.py, _val_metrics_update).
MEAN = re.compile(r"val-(?P<section>core|aux)/(?P<source>.+)/(?P<of>[^/]+)/mean@\d+", re.DOTALL)

Scalars = dict[str, dict[int, float]]  # name -> step -> value


def read_scalars(folder: Path, skipped: list[str] | None = None) -> Scalars:
    """Read all files of a folder as one series.

    Each file belongs to one start of the run. If a later start begins at a smaller step, the earlier start's values after
    that step are dropped. The list ``skipped`` gets one sentence per file with unreadable lines.
    """
    scalars: Scalars = {}
    for file in sorted(folder.glob("*.jsonl")):
        check_inside(file, folder.parent)
        content = file.read_bytes()
        steps = list(steps_of(content))
        begin = min((step for step, _ in steps), default=MOST_STEPS)
        scalars = {
            name: before
            for name, values in scalars.items()
            if (before := {step: value for step, value in values.items() if step <= begin})
        }
        for step, values in steps:
            for name, value in values.items():
                scalars.setdefault(name, {})[step] = value
        lines = len(content.split(b"\n")) - content.endswith(b"\n")
        if skipped is not None and content and len(steps) < lines:
            skipped.append(f"{file}: {lines - len(steps)} of {lines} lines are cut off, or not from verl's file logger")
    return scalars


def steps_of(content: bytes) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield step and finite values of each complete line. The last line may be incomplete after a kill."""
    for line in content.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
            step, values = row["step"], row["data"].items()
        except UNREADABLE:  # cut off by a kill
            continue
        if isinstance(step, int) and 0 <= step < MOST_STEPS:
            # verl writes NaN as null. Texts and lists cannot be plotted.
            yield step, {name: float(value) for name, value in values if _is_finite(value)}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def core_score(name: str) -> str | None:
    """Return the name of verl's main score of a validation, or None for another metric.

    The name is the data source if the score is its mean reward. If a reward function returns ``acc``, that is verl's main
    score, and the name is ``acc of`` the data source.
    """
    match = MEAN.fullmatch(name)
    if match is None or match["section"] != "core":
        return None
    return match["source"] if match["of"] == "reward" else f"{match['of']} of {match['source']}"


def reward_source(name: str) -> str | None:
    """Return the data source if a metric is the mean reward of a validation, or None."""
    match = MEAN.fullmatch(name)
    return match["source"] if match and match["of"] == "reward" else None
