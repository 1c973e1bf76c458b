"""Answers of systems to the same rows as scores, differences, and the files that hold them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verl_leaf.common.answers import Answer, Key
from verl_leaf.common.console import Console
from verl_leaf.common.progress import track
from verl_leaf.evaluate.metrics import METRICS, Metric, Missing, Scorer, Settings, build
from verl_leaf.evaluate.significance import DRAWS, TRIALS, clusters_of, compare, estimate, holm, summed
from verl_leaf.evaluate.tables import Table
from verl_leaf.rewards.metrics import needed_tokenizer
from verl_leaf.show.figures import write_csv

ALL = "all"  # the data sources together


@dataclass(frozen=True)
class Grid:
    """The answers that are scored: of each system as many to each row, and to the same rows.

    Attributes:
        rows: their numbers.
        passes: answers to each.
        answers: system -> its answers, row by row and pass by pass.
    """

    rows: list[int]
    passes: int
    answers: dict[str, list[list[Answer]]]

    @classmethod
    def of(cls, found: Mapping[str, Mapping[Key, Answer]], rows: int, common: bool) -> "Grid":
        """Of what systems have answered.

        Args:
            found: system -> row and sample -> answer.
            rows: how many the data has.
            common: take what all systems have answered, where it is not everything.

        Raises:
            ValueError: something is missing, and ``common`` is False; or nothing is common.
        """
        passes = {name: 1 + max(sample for _, sample in own) for name, own in found.items()}
        same = min(passes.values())
        whole = {(row, sample) for row in range(rows) for sample in range(same)}
        if not common:
            for name, own in found.items():
                if passes[name] != same or not whole <= own.keys():
                    raise ValueError(
                        f"{name} has {len(own)} answers, of {passes[name]} passes, to {len({row for row, _ in own})} of {rows} "
                        f"rows; others have {same} passes, and all rows count. To score what all have answered: --common"
                    )
        chosen = [row for row in range(rows) if all((row, k) in own for own in found.values() for k in range(same))]
        if not chosen:
            raise ValueError("there is no row that all systems have answered")
        answers = {name: [[own[row, k] for k in range(same)] for row in chosen] for name, own in found.items()}
        return cls(chosen, same, answers)

    def first(self) -> list[Answer]:
        """An answer to each row, for what they all say of it."""
        return [own[0] for own in next(iter(self.answers.values()))]

    def by_source(self) -> dict[str, list[int]]:
        """Data source -> the places of its rows."""
        places: dict[str, list[int]] = {}
        for place, answer in enumerate(self.first()):
            places.setdefault(answer.data_source, []).append(place)
        return places


@dataclass(frozen=True)
class Evaluation:
    """What :func:`report_on` found; the lists hold a dictionary per line of a table.

    Attributes:
        answers: shares of empty, cut-off and failed answers.
        scores: of each system, by data source and metric.
        differences: to the system that others are compared with.
        signatures: metric -> what its scores depend on; by data source where it differs.
        not_computed: metric -> why.
        judges: what each judge did for each system, as :meth:`verl_leaf.judges.Verdicts.summary` has it.
        notes: of what was scored: rows, clips, passes.
    """

    answers: list[dict]
    scores: list[dict]
    differences: list[dict]
    signatures: dict[str, str]
    not_computed: dict[str, str]
    judges: list[dict]
    notes: dict[str, Any]


class Scoring:
    """The metrics, by data source: built, and so known to work, before anything is generated.

    Args:
        references: data source -> all its references.
        metrics: names; None for all, those that need what is not installed left out.
        settings: of all metrics; without ``tokenize``, each data source gets the tokeniser that its script needs.

    Raises:
        ValueError: a metric is unknown, or was asked for by name and cannot be computed.
    """

    def __init__(self, references: Mapping[str, list[str]], metrics: Sequence[str] | None, settings: Settings):
        if unknown := [name for name in metrics or () if name not in METRICS]:
            raise ValueError(f"--metrics {unknown[0]}: there is none of that name; there are {', '.join(METRICS)}")
        self.scorers: dict[str, dict[str, Metric]] = {source: {} for source in references}
        self.not_computed: dict[str, str] = {}
        for source, texts in references.items():
            own = settings if settings.tokenize else dataclasses.replace(settings, tokenize=needed_tokenizer(texts))
            for name in metrics or METRICS:
                try:
                    self.scorers[source][name] = build(name, own)
                except Missing as error:
                    if metrics:
                        raise ValueError(f"--metrics {name}: {error}") from error
                    self.not_computed[name] = str(error)

    def signatures(self) -> dict[str, str]:
        """What each metric's scores depend on."""
        lines: dict[str, str] = {}
        for name in METRICS:
            own = {source: scorers[name].signature for source, scorers in self.scorers.items() if name in scorers}
            distinct = set(own.values())
            if own:
                differing = "; ".join(f"{source}: {signature}" for source, signature in own.items())
                lines[METRICS[name][0]] = distinct.pop() if len(distinct) == 1 else differing
        return lines


@dataclass(frozen=True)
class Measured:
    """What one metric or judge says of the answers.

    Attributes:
        scorers: data source -> how its statistics become a score.
        tables: system -> statistics ``[rows, passes, S]``.
        compared: whether systems can be compared by it: the grades of pairs are a comparison already.
    """

    scorers: Mapping[str, Scorer]
    tables: dict[str, np.ndarray]
    compared: bool = True


def measure(grid: Grid, scoring: Scoring, console: Console) -> list[Measured]:
    """Compute all metrics, and show the progress."""
    by_source = grid.by_source()
    names = [name for name in METRICS if any(name in own for own in scoring.scorers.values())]
    return [
        Measured(
            {source: own[name] for source, own in scoring.scorers.items()},
            {system: _statistics(own, by_source, scoring, name) for system, own in grid.answers.items()},
        )
        for name in track(names, "Scoring", len(names), console)
    ]


def report_on(grid: Grid, measured: Sequence[Measured], scoring: Scoring, against: str) -> Evaluation:
    """Scores of all systems by data source and together, and their differences to one of them.

    Args:
        grid: the answers.
        measured: what metrics and judges say of them.
        scoring: the metrics.
        against: name of the system that the others are compared with.
    """
    by_source = grid.by_source()
    scopes = by_source | ({ALL: list(range(len(grid.rows)))} if len(by_source) > 1 else {})
    clusters = clusters_of([answer.audio for answer in grid.first()])
    scores, differences = [], []
    for scope, places in scopes.items():
        own_clusters = np.unique(clusters[places], return_inverse=True)[1]
        for each in measured:
            scorer = each.scorers[scope if scope in by_source else next(iter(by_source))]
            sums = {system: summed(table[places], own_clusters) for system, table in each.tables.items()}
            line: dict[str, Any] = {"data_source": scope, "metric": scorer.title}
            scores += [
                line | {"system": system} | dataclasses.asdict(estimate(scorer, own)) for system, own in sums.items()
            ]
            if own_clusters.max() > 0 and each.compared:
                differences += [
                    line
                    | {"system": system, "against": against}
                    | dataclasses.asdict(compare(scorer, own, sums[against]))
                    for system, own in sums.items()
                    if system != against
                ]
    for kind in ("p_bootstrap", "p_randomisation"):
        for line, corrected in zip(differences, holm([line[kind] for line in differences]), strict=True):
            line[f"{kind}_holm"] = corrected
    return Evaluation(
        answers=[
            _shares(scope, system, [answer for place in places for answer in own[place]])
            for scope, places in scopes.items()
            for system, own in grid.answers.items()
        ],
        scores=scores,
        differences=differences,
        signatures=scoring.signatures(),
        not_computed=scoring.not_computed,
        judges=[],
        notes={
            "rows": len(grid.rows),
            "clips": int(clusters.max()) + 1,
            "passes": grid.passes,
            "against": against,
        },
    )


def _statistics(
    answers: list[list[Answer]], by_source: Mapping[str, list[int]], scoring: Scoring, name: str
) -> np.ndarray:
    """A metric's statistics of all answers of a system, ``[rows, passes, S]``."""
    table: np.ndarray | None = None
    for source, places in by_source.items():
        own = [answer for place in places for answer in answers[place]]
        found = scoring.scorers[source][name].statistics(
            [answer.text for answer in own], [answer.references for answer in own]
        )
        if table is None:
            table = np.zeros((len(answers), len(answers[0]), found.shape[1]))
        table[places] = found.reshape(len(places), -1, found.shape[1])
    assert table is not None
    return table


def _shares(scope: str, system: str, answers: list[Answer]) -> dict:
    count = len(answers)
    return {
        "data_source": scope,
        "system": system,
        "answers": count,
        "empty": sum(not answer.text.strip() for answer in answers) / count,
        "cut_off": sum(answer.finish == "length" for answer in answers) / count,
        "failed": sum(answer.finish == "failed" for answer in answers) / count,
    }


def tables_of(report: Evaluation) -> list[Table]:
    """A report as tables to read."""
    notes = report.notes
    passes = f"mean of {notes['passes']} passes and their standard deviation" if notes["passes"] > 1 else "one pass"
    signatures = tuple(f"{title}: {signature}" for title, signature in report.signatures.items())
    signatures += tuple(map(_of_a_judge, report.judges))
    signatures += tuple(f"{METRICS[name][0]}: not computed: {why}" for name, why in report.not_computed.items())
    tables = [
        Table(
            title="Answers",
            columns=("data source", "system", "answers", "empty", "cut off", "failed"),
            rows=[
                (
                    line["data_source"],
                    line["system"],
                    str(line["answers"]),
                    *(f"{100 * line[share]:.1f} %" for share in ("empty", "cut_off", "failed")),
                )
                for line in report.answers
            ],
            words=2,
        ),
        Table(
            title=f"Scores: {passes}; 95 % bootstrap interval of the mean over {notes['clips']} clips",
            columns=("data source", "metric", "system", "mean", "SD of passes", "95 % interval"),
            rows=[
                (*_words(line), _number(line["mean"]), _number(line["spread"]), _interval(line))
                for line in report.scores
            ],
            words=3,
            notes=signatures,
        ),
    ]
    if report.differences:
        note = (
            f"p: two-sided, of {DRAWS} draws and {TRIALS} swaps, corrected by Holm's method for all "
            f"{len(report.differences)} comparisons in this table. Intervals are not corrected."
        )
        tables.append(
            Table(
                title=f"Differences to {notes['against']}: paired bootstrap and approximate randomisation over clips",
                columns=(
                    "data source",
                    "metric",
                    "system",
                    "difference",
                    "95 % interval",
                    "p, bootstrap",
                    "p, randomised",
                ),
                rows=[
                    (
                        *_words(line),
                        ("+" if line["value"] > 0 else "") + _number(line["value"]),
                        _interval(line),
                        f"{line['p_bootstrap_holm']:.4f}",
                        f"{line['p_randomisation_holm']:.4f}",
                    )
                    for line in report.differences
                ],
                words=3,
                notes=(note,),
            )
        )
    return tables


def _of_a_judge(line: dict) -> str:
    text = f"{line['judge']} of {line['system']}: {line['kind']} by {line['model']}"
    if "inconsistent" in line:
        text += f"; {', '.join(f'{line[kind]} {kind}' for kind in ('win', 'loss', 'tie', 'inconsistent'))}"
    if line["missing"]:
        text += (
            f"; {line['missing']} of {line['answers']} grades are missing, so the mean lies between {line['lowest']:.4g} and "
            f"{line['highest']:.4g}"
        )
    return text


def _words(line: dict) -> tuple[str, str, str]:
    return line["data_source"], line["metric"], line["system"]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _interval(line: dict) -> str:
    return "" if line["low"] is None else f"{_number(line['low'])} to {_number(line['high'])}"


def write(report: Evaluation, out: Path, facts: dict[str, Any], console: Console) -> None:
    """Print the tables, and write them as Markdown, LaTeX and CSV, with ``summary.json``.

    Args:
        report: of :func:`report_on`.
        out: folder to write to.
        facts: what else ``summary.json`` is to say, as what was evaluated.
        console: for the tables.
    """
    tables = tables_of(report)
    for table in tables:
        table.print(console)
    (out / "report.md").write_text("\n".join(table.markdown() for table in tables), encoding="utf-8")
    (out / "report.tex").write_text("\n".join(table.latex() for table in tables), encoding="utf-8")
    for name in ("answers", "scores", "differences"):
        if lines := getattr(report, name):
            write_csv(out / f"{name}.csv", lines)
    summary = json.dumps({**facts, **dataclasses.asdict(report)}, indent=1, ensure_ascii=False)
    (out / "summary.json").write_text(summary, encoding="utf-8")
    console.print(f"Written: {out}/report.md, report.tex, scores.csv, summary.json", markup=False, soft_wrap=True)
