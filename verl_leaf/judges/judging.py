"""Verdicts of judges on answers."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verl_leaf.common.answers import Answer
from verl_leaf.common.console import Console
from verl_leaf.common.files import write_file
from verl_leaf.judges.client import Call, Reply, Usage, ask_all, open_cache
from verl_leaf.judges.grades import SCALES, Grade, grade
from verl_leaf.judges.prompts import ask
from verl_leaf.judges.spec import JudgeSpec

OUTCOMES = {1.0: "win", -1.0: "loss", 0.0: "tie"}


@dataclass(frozen=True)
class Verdict:
    """The verdict on one answer.

    Attributes:
        value: grade, or None if no reply could be read. For a pair: 1 if the answer is better, -1 if it is worse, or 0.
        outcome: result of a pair: win, loss, tie, or inconsistent if the two orders disagree; otherwise None.
        by: source of a Likert judge's grades: ``logprobs``, ``text``, or ``both`` if samples differ.
        unread: number of replies that could not be read.
        replies: texts of all replies. For a pair, those to the order in which the answer is A come first.
    """

    row: int
    sample: int
    value: float | None
    outcome: str | None
    by: str | None
    unread: int
    replies: tuple[str, ...]


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of one judge on the answers of one system, in the answers' order.

    Attributes:
        first: share of the votes, without ties, for the answer that is shown first, over pairs with a verdict. It is 0.5 if
            the order does not matter. None if there are no such votes.
    """

    spec: JudgeSpec
    items: tuple[Verdict, ...]
    usage: Usage
    first: float | None

    @property
    def missing(self) -> int:
        """Number of answers without a grade."""
        return sum(item.value is None for item in self.items)

    @property
    def score(self) -> float | None:
        """Mean over the answers with a grade, or None; for pairs, the net advantage (wins - losses) / pairs."""
        values = [item.value for item in self.items if item.value is not None]
        return sum(values) / len(values) if values else None

    @property
    def bounds(self) -> tuple[float, float]:
        """The mean if all missing grades were the worst, and if all were the best."""
        scale, values = SCALES[self.spec.kind], [item.value for item in self.items]
        low, high = (
            sum(end if value is None else value for value in values) / len(values) for end in (scale.worst, scale.best)
        )
        return low, high

    def summary(self) -> dict:
        """Return all numbers, for JSON."""
        low, high = self.bounds
        outcomes = Counter(item.outcome for item in self.items)
        counts = {name: outcomes[name] for name in ("win", "loss", "tie", "inconsistent")}
        return {
            "judge": self.spec.name,
            "model": self.spec.model,
            "kind": self.spec.kind,
            "answers": len(self.items),
            "score": self.score,
            "missing": self.missing,
            "lowest": low,
            "highest": high,
            "unread_replies": sum(item.unread for item in self.items),
            "graded_by": dict(Counter(item.by for item in self.items if item.by)),
            **({**counts, "first_preferred": self.first} if self.spec.kind == "pairwise" else {}),
            "asked": self.usage.calls + self.usage.cached,  # the same after judging was stopped and resumed
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
            "cost": self.usage.cost,
        }

    def write(self, file: Path) -> None:
        """Write one line of JSON per verdict, with the replies."""
        write_file(file, "".join(json.dumps(dataclasses.asdict(item)) + "\n" for item in self.items))


def judge(
    answers: Sequence[Answer],
    spec: JudgeSpec,
    folder: Path,
    against: Sequence[Answer] | None = None,
    console: Console | None = None,
) -> Verdicts:
    """Judge answers, and show the progress.

    Args:
        folder: folder for the replies, ``{name}.replies.jsonl``. Replies in it are not asked for again, so several
            systems may share it, and a stopped judging resumes.
        against: answers of the other system for a pairwise judge, one for the row and sample of each of ``answers``.

    Raises:
        JudgeStopped: the endpoint refuses or does not answer, or the budget is spent. The message says what to do.
        ValueError: :func:`check_pairs` fails, or a file of replies is damaged.
    """
    console = console or Console(stderr=True)
    others = check_pairs(answers, spec, against)
    asked = [_calls(answer, other, spec) for answer, other in zip(answers, others, strict=True)]
    cache = open_cache(folder / f"{spec.name}.replies.jsonl", console)
    replies, usage = ask_all([call for orders in asked for calls in orders for call in calls], spec, cache, console)
    replied = [[[replies[call] for call in calls] for calls in orders] for orders in asked]
    items = tuple(_verdict(answer, orders, spec) for answer, orders in zip(answers, replied, strict=True))
    whole = [orders for item, orders in zip(items, replied, strict=True) if item.outcome]
    return Verdicts(spec, items, usage, _first_preferred(whole, spec))


def check_pairs(
    answers: Sequence[Answer], spec: JudgeSpec, against: Sequence[Answer] | None
) -> list[Answer] | list[None]:
    """Return the other system's answer to each of ``answers``; None for each if the judge grades one answer at a time.

    Raises:
        ValueError: there are no answers, an answer has neither question nor reference, or the two systems have not answered
            the same questions. The message names the row.
    """
    if not answers:
        raise ValueError(f"judge {spec.name}: there are no answers to judge")
    for answer in answers:
        if not any(text.strip() for text in (answer.question, *answer.references)):
            raise ValueError(f"judge {spec.name}: row {answer.row} has neither a question nor a reference")
    if spec.kind != "pairwise":
        return [None] * len(answers)
    if against is None:
        raise ValueError(f"judge {spec.name}: kind pairwise compares two systems, but only one is given")
    others = {(other.row, other.sample): other for other in against}
    for answer in answers:
        other = others.get((answer.row, answer.sample))
        if other is None or (other.question, other.references) != (answer.question, answer.references):
            raise ValueError(
                f"judge {spec.name}: the other system has no answer to the question of row {answer.row}, sample "
                f"{answer.sample}. Compare systems that have answered the same rows"
            )
    return [others[answer.row, answer.sample] for answer in answers]


def _calls(answer: Answer, other: Answer | None, spec: JudgeSpec) -> list[list[Call]]:
    """Return the calls about an answer, for each order in which answers are shown."""
    shown = [[answer.text]] if other is None else [[answer.text, other.text], [other.text, answer.text]]
    what = f"row {answer.row}"
    messages = [
        ask(spec.kind, spec.reply_format, spec.rubric, answer.question, answer.references, texts) for texts in shown
    ]
    return [[Call(message, sample, what) for sample in range(spec.samples)] for message in messages]


def _grades(replies: Sequence[Reply], spec: JudgeSpec) -> list[Grade]:
    grades = (grade(spec.kind, spec.reply_format, reply) for reply in replies)
    return [grade for grade in grades if grade is not None]


def _verdict(answer: Answer, orders: list[list[Reply]], spec: JudgeSpec) -> Verdict:
    by_order = [_grades(replies, spec) for replies in orders]
    combine = SCALES[spec.kind].combine
    values = [combine([grade.value for grade in grades]) if grades else None for grades in by_order]
    value, outcome = (values[0], None) if len(orders) == 1 else _paired(*values)
    ways = sorted({grade.by for grades in by_order for grade in grades})
    return Verdict(
        row=answer.row,
        sample=answer.sample,
        value=value,
        outcome=outcome,
        by="both" if len(ways) > 1 else ways[0] if ways else None,
        unread=sum(map(len, orders)) - sum(map(len, by_order)),
        replies=tuple(reply.text for replies in orders for reply in replies),
    )


def _paired(shown_first: float | None, shown_second: float | None) -> tuple[float | None, str | None]:
    """Return value and outcome of an answer, given the votes for answer A when it is A and when it is B."""
    if shown_first is None or shown_second is None:
        return None, None
    if shown_first != -shown_second:
        return 0.0, "inconsistent"
    return shown_first, OUTCOMES[shown_first]


def _first_preferred(replied: list[list[list[Reply]]], spec: JudgeSpec) -> float | None:
    grades = [grade for orders in replied for replies in orders for grade in _grades(replies, spec)]
    votes = [grade.value for grade in grades if grade.value]
    return votes.count(1.0) / len(votes) if votes else None
