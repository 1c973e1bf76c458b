"""What verl's file logger has written of a run: a JSON line per step."""

import json
from collections.abc import Iterator
from pathlib import Path

Scalars = dict[str, dict[int, float]]  # name -> step -> value


def read_scalars(folder: Path) -> Scalars:
    """All files of a folder as one series; where a step was run again, the later value."""
    scalars: Scalars = {}
    for file in sorted(folder.glob("*.jsonl")):
        for step, values in steps_of(file.read_bytes()):
            for name, value in values.items():
                scalars.setdefault(name, {})[step] = value
    return scalars


def steps_of(content: bytes) -> Iterator[tuple[int, dict[str, float]]]:
    """Step and finite values of each whole line; a kill can cut off the last."""
    for line in content.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
            step, values = int(row["step"]), row["data"].items()
        except (ValueError, KeyError, TypeError, AttributeError):  # cut off and written on by the next start
            continue
        # JSON has no NaN: verl writes null. What is no number (a text, a list) is no curve.
        yield step, {name: value for name, value in values if isinstance(value, int | float)}


def is_score(name: str) -> bool:
    """Whether a metric is the mean reward of a validation."""
    return name.startswith("val-core/") and "/mean@" in name
