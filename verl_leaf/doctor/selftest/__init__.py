"""Self-test of ``verl-leaf doctor --gpu``: check on tiny random models that this machine's GPU computes what it should."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A finding of the self-test."""

    what: str
    found: str
    remedy: str | None = None  # instruction for the user, or None if nothing is wrong
