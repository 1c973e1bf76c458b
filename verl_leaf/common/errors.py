"""One-line descriptions of errors in data."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

MOST = 3  # errors that are listed, because a line of a trace can have thousands


@contextmanager
def errors_at(place: str) -> Iterator[None]:
    """Put a place, such as a file and row, before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def in_a_line(errors: Iterable[Mapping[str, Any]], keys: Iterable[str] = ()) -> str:
    """Return the first of ``ValidationError.errors()`` in one line, each as ``key: value: what is wrong``.

    The keys of the model are listed if the data has an unknown one.
    """
    return "; ".join(_in_words(error, keys) for error in list(errors)[:MOST])


def _in_words(error: Mapping[str, Any], keys: Iterable[str]) -> str:
    place = ".".join(map(str, error["loc"]))
    reason = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = f". The keys are {', '.join(keys)}" if len(error["loc"]) == 1 and keys else ""
        return f"{place}: there is no such key{known}"
    if not place:
        return reason
    if error["type"] == "missing":
        return f"{place}: is missing"
    return f"{place}: {str(error['input'])[:100]!r}: {reason}"
