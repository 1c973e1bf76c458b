"""``verl-leaf doctor --gpu``: whether this machine's GPU computes what it should, on tiny random models."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What a part of the self-test found.

    Attributes:
        what: was tested.
        found: figures, or what went wrong.
        remedy: what to do; None where nothing is wrong.
    """

    what: str
    found: str
    remedy: str | None = None
