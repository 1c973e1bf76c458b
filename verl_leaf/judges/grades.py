"""Reading of grades from a judge's replies."""

import itertools
import json
import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from verl_leaf.judges.client import GRADES, Alternatives, Reply

LONGEST = 200_000  # characters; a longer reply is not read
MOST_OBJECTS = 1000  # largest number of places at which a JSON object is looked for
VOTES = {"A": 1.0, "B": -1.0, "tie": 0.0}  # vote for the answer that is shown first


@dataclass(frozen=True)
class Scale:
    """The grading scale of a kind of judge."""

    # Ends of the scale.
    worst: float
    best: float
    pattern: str  # regular expression of a grade
    read: Callable[[str], float]  # function from a grade's text to its number
    combine: Callable[[Sequence[float]], float]  # function from the grades of an answer's samples to its grade


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
    """The grade in a reply, and its source: "logprobs" or "text"."""

    value: float
    by: str


def grade(kind: str, reply_format: str, reply: Reply) -> Grade | None:
    """Return the grade in a reply, or None if no grade can be read for certain.

    A grade is read only in the place that its format prescribes, with nothing after it (for JudgeLM, on the first
    line). So a grade that is quoted from an answer in a truncated reply is ignored. A Likert grade is the expected one
    under the reply's log-probabilities, if it has them.
    """
    scale = SCALES[kind]
    begin = reply.text.rfind("</think>") + len("</think>") if "</think>" in reply.text else 0
    if "<think>" in reply.text[begin:] or len(reply.text) > LONGEST:  # cut off while thinking, or too long
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


Place = tuple[int, int] | None  # start and end of the grade in the reply


def _alone(text: str, begin: int, pattern: str) -> Place:
    match = re.compile(rf"[\s*\"'\[(]*({pattern})[\s*\"'\]).]*").fullmatch(text, begin)
    return match and match.span(1)


def _after_result(text: str, begin: int, pattern: str) -> Place:
    match = re.compile(rf".*\[RESULT\][\s*(:]*({pattern})[\s*).]*", re.DOTALL).fullmatch(text, begin)
    return match and match.span(1)


def _in_json(text: str, begin: int, pattern: str) -> Place:
    """Return the place of the score in the outermost JSON object that ends where the reply ends."""
    end, decoder = len(text.rstrip(string.whitespace + "`")), json.JSONDecoder()
    for match in itertools.islice(re.compile("{").finditer(text, begin), MOST_OBJECTS):
        try:
            content, stop = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if stop == end:
            score = str(content.get("score")).strip()
            scores = re.compile(rf'"score"\s*:\s*(?:"\s*)?({pattern})(?=[\s",}}])').finditer(text, match.start(), end)
            places = [match.span(1) for match in scores if match[1] in (score, score.removesuffix(".0"))]
            return places[-1] if places else None
    return None


def _judgelm(text: str) -> Grade | None:
    first_line = text.strip().split("\n")[0].strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)", first_line)
    scores = [float(score) for score in match.groups()] if match else []
    if not scores or min(scores) < 1 or max(scores) > 10:
        return None
    return Grade(_majority([scores[0] - scores[1]]), "text")


def _expected(reply: Reply, position: int) -> float | None:
    """Return the expected grade under the log-probabilities of the token at a position of the text, or None without them."""
    weights = [
        (int(text), math.exp(logprob)) for text, logprob in _alternatives(reply, position) if text.strip() in GRADES
    ]
    total = sum(weight for _, weight in weights)
    return sum(number * weight for number, weight in weights) / total if total else None


def _alternatives(reply: Reply, position: int) -> Alternatives:
    """Return the alternatives to the token that is the single character at a position of the text; none if there is none."""
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
    """Return the text's bytes without white space, because some servers list tokens without the spaces before them."""
    return "".join(text.split()).encode(errors="surrogateescape")
