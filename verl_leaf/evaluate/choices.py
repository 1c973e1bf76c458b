"""Multiple-choice questions: accuracy by group with controls, letters, pairs of systems, and MMAU's files."""

import dataclasses
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
    """The choices that a system's answers name."""

    named: np.ndarray  # index of the named choice, `[rows, passes]`; -1 if an answer names none
    right: np.ndarray  # index of the correct choice, `[rows, 1]`
    count: np.ndarray  # number of choices, `[rows, 1]`

    @classmethod
    def of(cls, answers: Sequence[Sequence[Answer]]) -> "Read":
        named = [[named_choice(answer.text, answer.choices) for answer in passes] for passes in answers]
        numbers = [[-1 if choice is None else choice for choice in passes] for passes in named]
        right = [[right_choice(first.references, first.choices)] for first, *_ in answers]
        return cls(np.array(numbers), np.array(right), np.array([[len(first.choices)] for first, *_ in answers]))

    def correct(self) -> np.ndarray:
        return self.named == self.right


def with_choices(report: Evaluation, grid: Grid, controls: Mapping[str, Grid]) -> Evaluation:
    """Return a report with the results of multiple-choice questions, or the report itself if there are none.

    ``controls`` contains by control the systems' answers to the same rows with that control.
    """
    places = [place for place, answer in enumerate(grid.first()) if answer.choices]
    if not places:
        return report
    answers = [grid.first()[place] for place in places]

    def read_all(grid: Grid) -> dict[str, Read]:
        return {system: Read.of([rows[place] for place in places]) for system, rows in grid.answers.items()}

    read = read_all(grid)
    without = {control: read_all(other) for control, other in controls.items()}
    if controls:
        without = {"random choice": dict.fromkeys(read, _guesses(answers, grid.passes)), **without}
    clusters = clusters_of([answer.audio for answer in answers])
    choices = []
    for source, group, members in _groups(answers):
        for system, named in read.items():
            table = np.stack([named.correct()[members], np.ones((len(members), grid.passes))], axis=-1)
            accuracy = estimate(build("choice", ScoreOptions()), summed(table, clusters[members]))
            line = {"data_source": source, "group": group, "system": system, "questions": len(members)}
            line |= {"chance": float((1 / named.count[members]).mean()), "accuracy": accuracy.mean, "low": accuracy.low}
            line |= {"high": accuracy.high, "unread": float((named.named[members] < 0).mean())}
            for control, others in without.items():
                line[control] = float(others[system].correct()[members].mean()) if system in others else None
            choices.append(line)
    against = report.notes["against"]
    compared = [(system, against, one, read[against]) for system, one in read.items() if system != against]
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
    letters += [_letters(system, named, right=False) for system, named in read.items()]
    return dataclasses.replace(report, choices=choices, letters=letters, pairs=pairs)


def _guesses(answers: Sequence[Answer], passes: int) -> Read:
    """Return the choices of a guesser that draws one for each row and pass."""
    draws = [
        [random.Random(f"{answer.row} {k}").randrange(len(answer.choices)) for k in range(passes)] for answer in answers
    ]
    return dataclasses.replace(Read.of([[answer] for answer in answers]), named=np.array(draws))


def _groups(answers: Sequence[Answer]) -> Iterator[tuple[str, str, list[int]]]:
    """Yield data source, name and rows of each group: all of a source, its categories, and its difficulties."""
    for source in dict.fromkeys(answer.data_source for answer in answers):
        places = [place for place, answer in enumerate(answers) if answer.data_source == source]
        yield source, TOGETHER, places
        for kind in ("category", "difficulty"):
            for name in sorted({getattr(answers[place], kind) for place in places} - {""}):
                yield source, f"{kind} {name}", [place for place in places if getattr(answers[place], kind) == name]


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

    Return the files: one per system, and in ``pass_{k}/`` for each further pass; or none if no row belongs to MMAU.
    """
    rows = RowFile(data).rows(columns=["extra_info"])
    records = {number: text for number, row in rows if (text := (row.get("extra_info") or {}).get("record"))}
    files = []
    for system, answers in grid.answers.items():
        for k in range(grid.passes):
            of_pass = [passes[k] for passes in answers if passes[k].row in records]
            if of_pass:
                predicted = [_predicted(json.loads(records[answer.row]), answer) for answer in of_pass]
                files.append((out / f"pass_{k}" if k else out) / f"{system}.json")
                write_file(files[-1], json.dumps(predicted, indent=1, ensure_ascii=False))
    return files


def _predicted(record: dict, answer: Answer) -> dict:
    """Return a row of MMAU with the published text of the choice that an answer names; empty if it names none."""
    named = named_choice(answer.text, answer.choices)
    as_published = {LETTERED.sub("", " ".join(text.split()), count=1): text for text in record["choices"]}
    as_published |= {" ".join(text.split()): text for text in record["choices"]}
    return record | {"model_prediction": "" if named is None else as_published[answer.choices[named]]}
