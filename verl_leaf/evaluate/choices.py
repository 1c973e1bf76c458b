"""Multiple-choice questions: accuracy by group with controls, letters, pairs of systems, and MMAU's files."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from verl_leaf.common.answers import Answer
from verl_leaf.common.files import write_file
from verl_leaf.data.choices import letter_of, right_choice
from verl_leaf.data.parquet import RowFile
from verl_leaf.evaluate.metrics import ScoreOptions, build
from verl_leaf.evaluate.report import Evaluation, Grid
from verl_leaf.evaluate.significance import clusters_of, estimate, holm, summed
from verl_leaf.prepare.audioqa import LETTERED
from verl_leaf.rewards.choice import named_choice

TOGETHER = "together"


@dataclass(frozen=True)
class Read:
    """The choices that a system's answers name.

    Attributes:
        named: index of the named choice, ``[rows, passes]``; -1 if an answer names none.
        right: index of the correct choice, ``[rows, 1]``.
        count: number of choices, ``[rows, 1]``.
    """

    named: np.ndarray
    right: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, answers: Sequence[Sequence[Answer]]) -> "Read":
        named = [[named_choice(each.text, each.choices) for each in own] for own in answers]
        right = [[right_choice(own[0].references, own[0].choices)] for own in answers]
        numbers = [[-1 if choice is None else choice for choice in own] for own in named]
        return cls(np.array(numbers), np.array(right), np.array([[len(own[0].choices)] for own in answers]))

    def correct(self) -> np.ndarray:
        return self.named == self.right


def with_choices(report: Evaluation, grid: Grid, controls: Mapping[str, Grid]) -> Evaluation:
    """Return a report with the results of multiple-choice questions, or the report itself if there are none.

    Args:
        report: report on all answers.
        grid: answers of the systems.
        controls: control -> answers of the systems to the same rows with that control.
    """
    places = [place for place, answer in enumerate(grid.first()) if answer.choices]
    if not places:
        return report
    answers = [grid.first()[place] for place in places]
    read = {system: Read.of([own[place] for place in places]) for system, own in grid.answers.items()}
    without = {
        control: {system: Read.of([own[place] for place in places]) for system, own in other.answers.items()}
        for control, other in controls.items()
    }
    if controls:
        without = {"random choice": dict.fromkeys(read, _guesses(answers, grid.passes)), **without}
    clusters = clusters_of([answer.audio for answer in answers])
    choices = []
    for source, group, members in _groups(answers):
        for system, own in read.items():
            table = np.stack([own.correct()[members], np.ones((len(members), grid.passes))], axis=-1)
            found = estimate(build("choice", ScoreOptions()), summed(table, clusters[members]))
            line = {"data_source": source, "group": group, "system": system, "questions": len(members)}
            line |= {"chance": float((1 / own.count[members]).mean()), "accuracy": found.mean, "low": found.low}
            line |= {"high": found.high, "unread": float((own.named[members] < 0).mean())}
            for control, others in without.items():
                line[control] = float(others[system].correct()[members].mean()) if system in others else None
            choices.append(line)
    against = report.notes["against"]
    compared = [(system, against, own, read[against]) for system, own in read.items() if system != against]
    compared += [
        (system, f"{system}, {control}", read[system], other)
        for control, others in without.items()
        if control in controls
        for system, other in others.items()
    ]
    pairs = [_pair(system, versus, one, other, clusters) for system, versus, one, other in compared]
    for line, p in zip(pairs, holm([line["p"] for line in pairs]), strict=True):
        line["p_holm"] = p
    letters = [_letters("right answers", next(iter(read.values())), right=True)]
    letters += [_letters(system, own, right=False) for system, own in read.items()]
    fields = {"choices": choices, "letters": letters, "pairs": pairs}
    return Evaluation(**{**vars(report), **fields})


def _guesses(answers: Sequence[Answer], passes: int) -> Read:
    """Return the choices of a guesser that draws one for each row and pass."""
    draw = [
        [random.Random(f"{answer.row} {k}").randrange(len(answer.choices)) for k in range(passes)] for answer in answers
    ]
    read = Read.of([[answer] for answer in answers])
    return Read(np.array(draw), read.right, read.count)


def _groups(answers: Sequence[Answer]) -> Iterator[tuple[str, str, list[int]]]:
    """Yield data source, name and rows of each group: all of a source, its categories, and its difficulties."""
    for source in dict.fromkeys(answer.data_source for answer in answers):
        own = [place for place, answer in enumerate(answers) if answer.data_source == source]
        yield source, TOGETHER, own
        for kind in ("category", "difficulty"):
            for name in sorted({getattr(answers[place], kind) for place in own} - {""}):
                yield source, f"{kind} {name}", [place for place in own if getattr(answers[place], kind) == name]


def _letters(who: str, read: Read, right: bool) -> dict:
    numbers = read.right if right else read.named
    shares = {letter_of(number): float((numbers == number).mean()) for number in range(int(read.count.max()))}
    return {"who": who, **shares, "none": float((numbers < 0).mean())}


def _pair(system: str, other: str, one: Read, two: Read, clusters: np.ndarray) -> dict:
    """Count the clips on which either system is right more often, and test the difference with the exact sign test.

    With one row per clip and one pass, this is McNemar's exact test.
    """
    more = np.bincount(clusters, one.correct().sum(axis=1).astype(float) - two.correct().sum(axis=1))
    better, worse = int((more > 0).sum()), int((more < 0).sum())
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return {"system": system, "against": other, "better": better, "worse": worse, "clips": len(more), "p": p}


def write_mmau(grid: Grid, data: Path, out: Path) -> list[Path]:
    """Write answers to MMAU's rows for its own evaluation script: the published rows with ``model_prediction``.

    Args:
        grid: answers of the systems.
        data: parquet file of the rows.
        out: folder to write, with one file per system and one more for each further pass.

    Returns:
        The files; none if no row belongs to MMAU.
    """
    rows = RowFile(data).rows(columns=["extra_info"])
    records = {number: text for number, row in rows if (text := (row.get("extra_info") or {}).get("record"))}
    files = []
    for system, answers in grid.answers.items():
        for k in range(grid.passes):
            own = [_predicted(json.loads(records[each[k].row]), each[k]) for each in answers if each[k].row in records]
            if own:
                files.append(out / (f"{system}.json" if k == 0 else f"{system}-{k}.json"))
                write_file(files[-1], json.dumps(own, indent=1, ensure_ascii=False))
    return files


def _predicted(record: dict, answer: Answer) -> dict:
    """Return a row of MMAU with the published text of the choice that an answer names; empty if it names none."""
    named = named_choice(answer.text, answer.choices)
    as_published = {LETTERED.sub("", " ".join(text.split()), count=1): text for text in record["choices"]}
    as_published |= {" ".join(text.split()): text for text in record["choices"]}
    return record | {"model_prediction": "" if named is None else as_published[answer.choices[named]]}
