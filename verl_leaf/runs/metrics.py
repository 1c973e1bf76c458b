"""What verl's file logger has written of a run: a JSON line per step."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_STEPS = 10**12
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

Scalars = dict[str, dict[int, float]]  # name -> step -> value


def read_scalars(folder: Path, skipped: list[str] | None = None) -> Scalars:
    """All files of a folder as one series; where a step was run again, the later value.

    Args:
        folder: of the files.
        skipped: if given, gets a sentence for each file with lines that cannot be read.
    """
    scalars: Scalars = {}
    for file in sorted(folder.glob("*.jsonl")):
        content = file.read_bytes()
        steps = list(steps_of(content))
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


def is_score(name: str) -> bool:
    """Whether a metric is the mean reward of a validation."""
    return name.startswith("val-core/") and "/mean@" in name
