"""What a judge's replies say: a grade each, or nothing that can be read."""

import itertools
import json
import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from verl_leaf.judges.client import GRADES, Reply

LONGEST = 200_000  # characters of a reply; one that is longer is no grade with its reasons
MOST_OBJECTS = 1000  # beginnings of one that are tried
VOTES = {"A": 1.0, "B": -1.0, "tie": 0.0}  # for the answer shown first


@dataclass(frozen=True)
class Scale:
    """The grading scale of a kind of judge.

    Attributes:
        worst, best: the ends.
        pattern: a grade as it is written.
        read: its number.
        combine: the grade of an answer from those of its samples.
    """

    worst: float
    best: float
    pattern: str
    read: Callable[[str], float]
    combine: Callable[[Sequence[float]], float]


def _majority(votes: Sequence[float]) -> float:
    return float((sum(votes) > 0) - (sum(votes) < 0))


SCALES = {
    "da": Scale(0, 100, r"\d{1,3}(?:\.\d+)?", float, median),
    "likert": Scale(1, 5, "[1-5]", float, fmean),
    "correct": Scale(0, 1, "(?i:yes|no)", lambda word: float(word.lower() == "yes"), median),
    "pairwise": Scale(-1, 1, "A|B|tie", VOTES.__getitem__, _majority),
}


@dataclass(frozen=True)
class Grade:
    """The grade in one reply, and whether log-probabilities or the text gave it."""

    value: float
    by: str


def grade(kind: str, reply_format: str, reply: Reply) -> Grade | None:
    """Return the grade in a reply; None if it has none that can be read for certain.

    A grade counts only at the place where the format has it, with nothing behind it (JudgeLM's: on the first line), so
    that one that is quoted from an answer, in a reply that was cut off, is none.

    Args:
        kind, reply_format: of the judge.
        reply: with log-probabilities, for Likert the expected grade is taken from them.
    """
    scale = SCALES[kind]
    begin = reply.text.rfind("</think>") + len("</think>") if "</think>" in reply.text else 0
    if "<think>" in reply.text[begin:]:  # cut off before it came to its reply
        return None
    if len(reply.text) > LONGEST:
        return None
    if reply_format == "judgelm":
        return _judgelm(reply.text[begin:])
    find = {"json": _in_json, "bare": _alone, "prometheus": _after_result}[reply_format]
    place = find(reply.text, begin, scale.pattern)
    if place is None:
        return None
    value = scale.read(reply.text[slice(*place)])
    if not scale.worst <= value <= scale.best:
        return None
    expected = _expected(reply, place[0]) if kind == "likert" else None
    return Grade(value, "text") if expected is None else Grade(expected, "logprobs")


Place = tuple[int, int] | None  # of a grade in the reply: its first character, and the one behind its last


def _alone(text: str, begin: int, pattern: str) -> Place:
    match = re.compile(rf"[\s*\"'\[(]*({pattern})[\s*\"'\]).]*").fullmatch(text, begin)
    return match and match.span(1)


def _after_result(text: str, begin: int, pattern: str) -> Place:
    match = re.compile(rf".*\[RESULT\][\s*(:]*({pattern})[\s*).]*", re.DOTALL).fullmatch(text, begin)
    return match and match.span(1)


def _in_json(text: str, begin: int, pattern: str) -> Place:
    """Return the place of the score in the outermost object that ends where the reply ends."""
    end, decoder = len(text.rstrip(string.whitespace + "`")), json.JSONDecoder()
    for match in itertools.islice(re.compile("{").finditer(text, begin), MOST_OBJECTS):
        try:
            content, stop = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if stop == end:
            score = str(content.get("score")).strip()
            found = re.compile(rf'"score"\s*:\s*(?:"\s*)?({pattern})(?=[\s",}}])').finditer(text, match.start(), end)
            places = [match.span(1) for match in found if match[1] in (score, score.removesuffix(".0"))]
            return places[-1] if places else None
    return None


def _judgelm(text: str) -> Grade | None:
    first = text.strip().split("\n")[0]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)", first.strip())
    if match is None:
        return None
    one, other = map(float, match.groups())
    if not (1 <= one <= 10 and 1 <= other <= 10):
        return None
    return Grade(_majority([one - other]), "text")


def _expected(reply: Reply, position: int) -> float | None:
    """Return the expected grade under the log-probabilities of the token at a position of the text; None without them."""
    weights = [
        (int(text), math.exp(logprob)) for text, logprob in _alternatives(reply, position) if text.strip() in GRADES
    ]
    total = sum(weight for _, weight in weights)
    return sum(number * weight for number, weight in weights) / total if total else None


def _alternatives(reply: Reply, position: int) -> tuple[tuple[str, float], ...]:
    """Return those to the token that is the one character at a position of the text; none if there is no such token."""
    before, written = _unspaced(reply.text[:position]), 0
    for token, alternatives in reply.tokens:
        if token.strip() == reply.text[position] and written == len(before):
            return alternatives
        piece = _unspaced(token)
        if not before.startswith(piece, written):
            return ()
        written += len(piece)
    return ()


def _unspaced(text: str) -> bytes:
    """Remove white space: some servers list tokens without the spaces that are before them in the text."""
    return "".join(text.split()).encode(errors="surrogateescape")
