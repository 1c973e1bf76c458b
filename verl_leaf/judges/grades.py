"""What a judge's replies say: a grade each, or nothing that can be read."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from verl_leaf.judges.client import Reply

VOTES = {"A": 1.0, "B": -1.0, "tie": 0.0}  # for the answer shown first


@dataclass(frozen=True)
class Scale:
    """Of a kind of judge.

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
    """Of one reply, and whether log-probabilities gave it or its text."""

    value: float
    by: str


def grade(kind: str, reply_format: str, reply: Reply) -> Grade | None:
    """The grade in a reply; None where it has none that can be read for certain.

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
    """Of the score of the outermost object that ends where the reply ends."""
    end = len(re.sub(r"[\s`]+$", "", text))
    for start in (match.start() for match in re.finditer("{", text) if match.start() >= begin):
        try:
            content, length = json.JSONDecoder().raw_decode(text[start:end])
        except (ValueError, RecursionError):
            continue
        if start + length == end:
            score = str(content.get("score")).strip()
            found = re.compile(rf'"score"\s*:\s*"?\s*({pattern})(?=[\s",}}])').finditer(text, start, end)
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
    """Expected grade 1 to 5 under the log-probabilities of the token at a position of the text; None without them."""
    weights: dict[int, float] = {}
    for alternative, logprob in _alternatives(reply, position):
        if alternative.strip() in ("1", "2", "3", "4", "5"):
            number = int(alternative)
            weights[number] = weights.get(number, 0.0) + math.exp(logprob)
    total = sum(weights.values())
    return sum(number * weight for number, weight in weights.items()) / total if total else None


def _alternatives(reply: Reply, position: int) -> tuple[tuple[str, float], ...]:
    """To the token that is the one character at a position of the text; none where there is no such token."""
    before, written = _unspaced(reply.text[:position]), b""
    for token, alternatives in reply.tokens:
        if token.strip() == reply.text[position] and written == before:
            return alternatives
        written += _unspaced(token)
    return ()


def _unspaced(text: str) -> bytes:
    """Without white space: some servers list tokens without the spaces that stand before them in the text."""
    return "".join(text.split()).encode(errors="surrogateescape")
