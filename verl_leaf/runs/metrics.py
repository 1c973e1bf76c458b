"""What verl's file logger has written of a run: a JSON line per step."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_leaf.common.files import check_inside

MOST_STEPS = 10**12
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

# A data source may have any characters, slashes too (verl/trainer/ppo/v1/trainer_base.py, _val_metrics_update).
MEAN = re.compile(r"val-(?P<section>core|aux)/(?P<source>.+)/(?P<of>[^/]+)/mean@\d+", re.DOTALL)

Scalars = dict[str, dict[int, float]]  # name -> step -> value


def read_scalars(folder: Path, skipped: list[str] | None = None) -> Scalars:
    """Read all files of a folder as one series.

    Each file is of a start. What an earlier start logged of later steps than those at which a start begins is of a training
    that was given up, and is left out.

    Args:
        folder: of the files.
        skipped: if given, gets a sentence for each file with lines that cannot be read.
    """
    scalars: Scalars = {}
    for file in sorted(folder.glob("*.jsonl")):
        check_inside(file, folder.parent)
        content = file.read_bytes()
        steps = list(steps_of(content))
        begin = min((step for step, _ in steps), default=MOST_STEPS)
        scalars = {
            name: kept
            for name, values in scalars.items()
            if (kept := {step: value for step, value in values.items() if step <= begin})
        }
        for step, values in steps:
            for name, value in values.items():
                scalars.setdefault(name, {})[step] = value
        lines = len(content.split(b"\n")) - content.endswith(b"\n")
        if skipped is not None and content and len(steps) < lines:
            skipped.append(f"{file}: {lines - len(steps)} of {lines} lines, cut off or not of verl's file logger")
    return scalars


def steps_of(content: bytes) -> Iterator[tuple[int, dict[str, float]]]:
    """Step and finite values of each whole line; a kill can cut off the last."""
    for line in content.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
            step, values = row["step"], row["data"].items()
        except UNREADABLE:  # cut off, and written on by the next start
            continue
        if isinstance(step, int) and 0 <= step < MOST_STEPS:
            # JSON has no NaN: verl writes null. What is no number (a text, a list) is no curve.
            yield step, {name: float(value) for name, value in values if _is_finite(value)}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def core_score(name: str) -> str | None:
    """Return what verl's leading score of a validation is of; None if a metric is another one.

    It is a data source, whose mean reward it is. If a reward function returns ``acc``, verl leads with that, and it is
    ``acc of`` the data source.
    """
    match = MEAN.fullmatch(name)
    if match is None or match["section"] != "core":
        return None
    return match["source"] if match["of"] == "reward" else f"{match['of']} of {match['source']}"


def reward_source(name: str) -> str | None:
    """Return the data source if a metric is the mean reward of a validation."""
    match = MEAN.fullmatch(name)
    return match["source"] if match and match["of"] == "reward" else None
