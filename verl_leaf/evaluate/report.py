"""Scores of systems on the same rows, their differences, and the files with the results."""

import dataclasses
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verl_leaf.common.answers import Answer, Key
from verl_leaf.common.console import Console
from verl_leaf.common.files import write_file
from verl_leaf.common.progress import track
from verl_leaf.common.texts import collapse
from verl_leaf.evaluate.metrics import METRICS, TEXT_METRICS, Metric, Missing, ScoreOptions, Scorer, build
from verl_leaf.evaluate.significance import (
    FEWEST_DIFFERENT,
    FEWEST_FOR_A_TEST,
    FEWEST_FOR_AN_INTERVAL,
    TRIALS,
    TRIALS_PER_TEST,
    clusters_of,
    compare,
    estimate,
    has_score,
    holm,
    summed,
)
from verl_leaf.evaluate.tables import Table
from verl_leaf.rewards.metrics import MAX_CHARACTERS, needed_tokenizer
from verl_leaf.show.figures import write_csv

ALL = "all"  # all data sources together


@dataclass(frozen=True)
class Grid:
    """The answers that are scored: the same rows and number of passes for each system."""

    rows: list[int]  # numbers of the rows
    passes: int  # answers per row
    answers: dict[str, list[list[Answer]]]  # system -> answers, by row and pass

    @classmethod
    def of(cls, answers: Mapping[str, Mapping[Key, Answer]], rows: int, common: bool) -> "Grid":
        """Return the grid of the systems' answers; with ``common``, of those that all systems have.

        Raises:
            ValueError: an answer is missing and ``common`` is False, or no row is common to all systems.
        """
        passes = {name: 1 + max(sample for _, sample in by_key) for name, by_key in answers.items()}
        fewest = min(passes.values())
        for name, by_key in answers.items():
            if not common and (passes[name] != fewest or len(by_key) != rows * fewest):
                raise ValueError(
                    f"{name} has {len(by_key)} answers ({passes[name]} passes) for {len({row for row, _ in by_key})} of {rows} "
                    f"rows, but every system needs {fewest} passes for all {rows} rows. Use --common to score only the answers "
                    "that all systems have"
                )
        shared = set.intersection(*(set(by_key) for by_key in answers.values()))
        chosen = [row for row in range(rows) if all((row, k) in shared for k in range(fewest))]
        if not chosen:
            raise ValueError("there is no row that all systems have answered")
        return cls.at(chosen, fewest, answers)

    @classmethod
    def at(cls, rows: list[int], passes: int, answers: Mapping[str, Mapping[Key, Answer]]) -> "Grid":
        """Return the grid of answers to these rows."""
        systems = {name: [[by_key[row, k] for k in range(passes)] for row in rows] for name, by_key in answers.items()}
        return cls(rows, passes, systems)

    def first(self) -> list[Answer]:
        """Return the first answer to each row, which identifies the row."""
        return [passes[0] for passes in next(iter(self.answers.values()))]

    def by_source(self) -> dict[str, list[int]]:
        """Return data source -> positions of its rows."""
        places: dict[str, list[int]] = {}
        for place, answer in enumerate(self.first()):
            places.setdefault(answer.data_source, []).append(place)
        return places


@dataclass(frozen=True)
class Evaluation:
    """The results of :func:`report_on`. Each list contains one dictionary per line of a table."""

    answers: list[dict]  # shares of empty, cut-off and failed answers
    scores: list[dict]  # scores of each system, by data source and metric
    differences: list[dict]  # differences to the system that the others are compared with
    signatures: dict[str, str]  # metric -> settings that its scores depend on, by data source if they differ
    not_computed: dict[str, str]  # metric -> reason
    judges: list[dict]  # statistics of each judge for each system, from `Verdicts.summary`
    choices: list[dict]  # accuracy on multiple-choice questions by category and difficulty, with controls
    letters: list[dict]  # share of each letter among the correct answers, and among each system's answers
    pairs: list[dict]  # comparisons of two systems, or of a system and its control, by how often only one is right
    notes: dict[str, Any]  # facts on the scored answers: rows, clips, passes


class Scoring:
    """The metrics by data source, built and so checked before anything is generated.

    Args:
        references: data source -> all its references.
        metrics: names, or None for accuracy if a source has choices, otherwise for all text metrics that are installed
            and can score the references.
        options: options of all metrics. Without ``tokenize``, each data source gets the tokeniser that its script needs.
        with_choices: data sources in which every row has choices.

    Raises:
        ValueError: a metric is unknown, or was requested and cannot be computed.
    """

    def __init__(
        self,
        references: Mapping[str, list[str]],
        metrics: Sequence[str] | None,
        options: ScoreOptions,
        with_choices: Collection[str] = (),
    ):
        if unknown := [name for name in metrics or () if name not in METRICS]:
            raise ValueError(f"--metrics {unknown[0]}: there is no such metric. Choose from {', '.join(METRICS)}")
        self.scorers: dict[str, dict[str, Metric]] = {source: {} for source in references}
        reasons: dict[str, dict[str, str]] = {}
        for source, texts in references.items():
            tokenize = options.tokenize or needed_tokenizer(texts)
            for name in metrics or (["choice"] if source in with_choices else TEXT_METRICS):
                try:
                    if name == "choice" and source not in with_choices:
                        raise Missing("its rows have no choices")
                    self.scorers[source][name] = build(name, dataclasses.replace(options, tokenize=tokenize), texts)
                except Missing as error:
                    if metrics:
                        raise ValueError(f"--metrics {name}: {error} (data source {source})") from error
                    reasons.setdefault(name, {})[source] = str(error)
        self.not_computed = {name: _by_source(why, len(references)) for name, why in reasons.items()}

    def signatures(self) -> dict[str, str]:
        """Return the settings that each metric's scores depend on."""
        lines: dict[str, str] = {}
        for name in METRICS:
            of_source = {source: scorers[name].signature for source, scorers in self.scorers.items() if name in scorers}
            if of_source:
                lines[METRICS[name][0]] = _by_source(of_source, len(of_source))
        return lines


def _by_source(texts: Mapping[str, str], sources: int) -> str:
    """Return one text if all sources have the same, otherwise a text for each."""
    if len(set(texts.values())) == 1 and len(texts) == sources:
        return next(iter(texts.values()))
    return "; ".join(f"{source}: {text}" for source, text in texts.items())


@dataclass(frozen=True)
class Measured:
    """The statistics of the answers for one metric or judge."""

    scorers: Mapping[str, Scorer]  # data source -> scorer; sources that the metric cannot score are missing
    tables: dict[str, np.ndarray]  # system -> statistics `[rows, passes, S]`; NaN if they are missing
    # True if systems can be compared by it; False for grades of pairs, which are comparisons already.
    compared: bool = True
    cut: int = 0  # number of texts of which only the beginning was read


def measure(grid: Grid, scoring: Scoring) -> list[Measured]:
    """Compute all metrics, and show the progress."""
    names = [name for name in METRICS if any(name in scorers for scorers in scoring.scorers.values())]
    return [_measured(grid, scoring, name) for name in track(names, "Scoring", len(names))]


def report_on(grid: Grid, measured: Sequence[Measured], scoring: Scoring, against: str) -> Evaluation:
    """Return the scores of all systems by data source and together, and their differences to one system."""
    by_source, total = grid.by_source(), ALL
    while total in by_source:
        total += " sources"
    scopes = by_source | ({total: list(range(len(grid.rows)))} if len(by_source) > 1 else {})
    clusters = clusters_of([answer.audio for answer in grid.first()])
    scores, pairs = [], []
    for scope, places in scopes.items():
        for result in measured:
            if not result.scorers.keys() >= ({scope} if scope in by_source else by_source.keys()):
                continue  # it cannot score all rows of this scope
            scorer = result.scorers[scope if scope in by_source else next(iter(by_source))]
            tables = {system: table[places] for system, table in result.tables.items()}
            line: dict[str, Any] = {"data_source": scope, "metric": scorer.title}
            for system, table in tables.items():
                sums = summed(table, clusters[places])
                scores.append(line | {"system": system} | dataclasses.asdict(estimate(scorer, sums)))
                if result.compared and system != against:
                    # Only answers that both systems have are compared.
                    pair = np.stack([table, tables[against]])
                    pair[:, np.isnan(pair).any(axis=0)] = np.nan
                    sums, other = (summed(values, clusters[places]) for values in pair)
                    if has_score(scorer, sums) and has_score(scorer, other):
                        pairs.append((line | {"system": system, "against": against}, scorer, sums, other))
    trials = max(TRIALS, TRIALS_PER_TEST * len(pairs))
    differences = [
        line | dataclasses.asdict(compare(scorer, sums, other, trials)) | {"p_holm": None}
        for line, scorer, sums, other in pairs
    ]
    tested = [line for line in differences if line["p"] is not None]
    for line, corrected in zip(tested, holm([line["p"] for line in tested]), strict=True):
        line["p_holm"] = corrected
    return Evaluation(
        answers=[
            _shares(scope, system, [answer for place in places for answer in answers[place]])
            for scope, places in scopes.items()
            for system, answers in grid.answers.items()
        ],
        scores=scores,
        differences=differences,
        signatures=scoring.signatures(),
        not_computed=scoring.not_computed,
        judges=[],
        choices=[],
        letters=[],
        pairs=[],
        notes={
            "rows": len(grid.rows),
            "clusters": int(clusters.max()) + 1,
            "unit": _unit(grid.first()),
            "passes": grid.passes,
            "against": against,
            "trials": trials,
            "cut": {next(iter(result.scorers.values())).title: result.cut for result in measured if result.cut},
        },
    )


def _unit(answers: Sequence[Answer]) -> str:
    """Return the name of the units that rows are clustered by."""
    spoken = sum(bool(answer.audio) for answer in answers)
    return "clips" if spoken == len(answers) else "clips and rows without audio" if spoken else "rows"


def _measured(grid: Grid, scoring: Scoring, name: str) -> Measured:
    """Return a metric's statistics of all answers, with NaN in data sources that it cannot score."""
    scorers = {source: metrics[name] for source, metrics in scoring.scorers.items() if name in metrics}
    tables: dict[str, np.ndarray] = {}
    cut, by_source = 0, grid.by_source()
    for system, by_row in grid.answers.items():
        for source, places in by_source.items():
            if (metric := scorers.get(source)) is None:
                continue
            answers = [answer for place in places for answer in by_row[place]]
            texts, references = [answer.text for answer in answers], [answer.references for answer in answers]
            statistics = metric.statistics(texts, references, [answer.choices for answer in answers])
            width = statistics.shape[1]
            table = tables.setdefault(system, np.full((len(by_row), grid.passes, width), np.nan))
            table[places] = statistics.reshape(-1, grid.passes, width)
            cut += sum(len(collapse(text)) > (metric.reads or np.inf) for text in itertools.chain(texts, *references))
    return Measured(scorers, tables, cut=cut)


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
    """Return a report as printable tables."""
    notes = report.notes
    passes = f"mean of {notes['passes']} passes and their standard deviation" if notes["passes"] > 1 else "one pass"
    unit = notes["unit"]
    signatures = [f"{title}: {signature}" for title, signature in report.signatures.items()]
    signatures += [
        f"{title}: only the first {MAX_CHARACTERS} characters of {count} texts were read"
        for title, count in notes["cut"].items()
    ]
    signatures += map(_of_a_judge, report.judges)
    signatures += [f"{METRICS[name][0]}: not computed: {why}" for name, why in report.not_computed.items()]
    without = (
        f"-: no interval, because there are fewer than {FEWEST_FOR_AN_INTERVAL} {unit}, or fewer than "
        f"{FEWEST_DIFFERENT} that differ"
    )
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
            title=f"Scores: {passes}; 95 % interval over {notes['clusters']} {unit}",
            columns=("data source", "metric", "system", "score", "SD of passes", "95 % interval"),
            rows=[
                (*_words(line), _number(line["mean"]), _number(line["spread"]), _interval(line))
                for line in report.scores
            ],
            words=3,
            notes=(*signatures, *([without] if any(line["low"] is None for line in report.scores) else [])),
        ),
    ]
    if report.differences:
        tested = sum(line["p"] is not None for line in report.differences)
        below = []
        if tested:
            below += [
                f"p: two-sided p-value of a randomisation test that swaps answers by {unit} (all swaps, or {notes['trials']} random ones).",
                f"p is corrected by Holm's method for the {tested} tests in this table; intervals are not corrected.",
            ]
        if tested < len(report.differences):
            below.append(f"-: no p, because with fewer than {FEWEST_FOR_A_TEST} {unit} no test can reach 0.05")
        if any(line["low"] is None for line in report.differences):
            below.append(without)
        tables.append(
            Table(
                title=f"Differences to {notes['against']}: randomisation test, and 95 % interval over {unit}",
                columns=("data source", "metric", "system", "difference", "p", "95 % interval"),
                rows=[
                    (
                        *_words(line),
                        ("+" if line["value"] > 0 else "") + _number(line["value"]),
                        "-" if line["p"] is None else _p_value(line["p_holm"]),
                        _interval(line),
                    )
                    for line in report.differences
                ],
                words=3,
                notes=tuple(below),
            )
        )
    return [*tables, *_tables_of_choices(report)]


def _tables_of_choices(report: Evaluation) -> list[Table]:
    """Return the tables of multiple-choice questions; none if there are none."""
    if not report.choices:
        return []
    known = ("data_source", "group", "system", "questions", "chance", "accuracy", "low", "high", "unread")
    controls = [name for name in report.choices[0] if name not in known]
    share = lambda value: "-" if value is None else f"{100 * value:.1f} %"  # noqa: E731
    unit = report.notes["unit"]
    columns = ("data source", "group", "system", "questions", "chance", "accuracy", "95 % interval", "unread")
    accuracy = Table(
        title=f"Accuracy by group, 95 % interval over {unit}" + (", and of controls" if controls else ""),
        columns=(*columns, *controls),
        rows=[
            (
                *(line[key] for key in known[:3]),
                str(line["questions"]),
                share(line["chance"]),
                share(line["accuracy"]),
                "-" if line["low"] is None else f"{100 * line['low']:.1f} to {share(line['high'])}",
                share(line["unread"]),
                *(share(line[control]) for control in controls),
            )
            for line in report.choices
        ],
        words=3,
        notes=("unread: share of answers that name no choice or several; they are scored as wrong.",),
    )
    letters = Table(
        title="Share of each letter",
        columns=("answers", *(name for name in report.letters[0] if name != "who")),
        rows=[(line["who"], *(share(line[name]) for name in line if name != "who")) for line in report.letters],
        words=1,
    )
    pairs = Table(
        title=f"Which of two systems is right more often, by {unit}",
        columns=("system", "against", "better", "worse", "p"),
        rows=[
            (line["system"], line["against"], str(line["better"]), str(line["worse"]), _p_value(line["p_holm"]))
            for line in report.pairs
        ],
        words=2,
        notes=(
            "p: two-sided p-value of the exact sign test (McNemar's exact test if there is one row per clip and one pass).",
            f"p is corrected by Holm's method for the {len(report.pairs)} tests in this table.",
        ),
    )
    return [accuracy, letters, *([pairs] if report.pairs else [])]


def _of_a_judge(line: dict) -> str:
    text = f"{line['judge']} of {line['system']}: {line['kind']} by {line['model']}"
    if "inconsistent" in line:
        text += f"; {', '.join(f'{line[kind]} {kind}' for kind in ('win', 'loss', 'tie', 'inconsistent'))}"
    if line["missing"]:
        text += (
            f"; {line['missing']} of {line['answers']} grades are missing; if they were the worst or the best, the mean would be "
            f"{line['lowest']:.4g} or {line['highest']:.4g}"
        )
    return text


def _words(line: dict) -> tuple[str, str, str]:
    return line["data_source"], line["metric"], line["system"]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _p_value(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def _interval(line: dict) -> str:
    return "-" if line["low"] is None else f"{_number(line['low'])} to {_number(line['high'])}"


def write(report: Evaluation, out: Path, facts: dict[str, Any], console: Console) -> None:
    """Write the tables as Markdown, LaTeX and CSV, and print them; ``summary.json`` also contains ``facts``."""
    tables = tables_of(report)
    write_file(out / "report.md", "\n".join(table.markdown() for table in tables))
    write_file(out / "report.tex", "\n".join(table.latex() for table in tables))
    for name in ("answers", "scores", "differences", "choices", "letters", "pairs"):
        if lines := getattr(report, name):
            write_csv(out / f"{name}.csv", lines)
        else:
            (out / f"{name}.csv").unlink(missing_ok=True)  # of an earlier command
    summary = json.dumps({**facts, **dataclasses.asdict(report)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_file(out / "summary.json", summary)
    for table in tables:  # after the files, because the terminal or pipe may be closed
        table.print(console)
    console.print(f"Written: {out}/report.md, report.tex, summary.json, and each table as CSV")
