"""Self-test of ``verl-leaf doctor --gpu``: check on tiny random models that this machine's GPU computes what it should."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A finding of the self-test.

    Attributes:
        what: part that was tested.
        found: measurements, or what went wrong.
        remedy: instruction for the user, or None if nothing is wrong.
    """

    what: str
    found: str
    remedy: str | None = None
