"""The steps of ``verl-leaf evaluate``."""

import argparse
import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from verl_leaf.common.answers import Answer, Key, read_answers
from verl_leaf.common.console import Console
from verl_leaf.common.files import lock_folder
from verl_leaf.evaluate.answer_file import AnswerFile
from verl_leaf.evaluate.choices import with_choices, write_mmau
from verl_leaf.evaluate.data import CONTROLS, Data
from verl_leaf.evaluate.generate import Sampling, generate, made_of
from verl_leaf.evaluate.judging import ask, check, read_judges
from verl_leaf.evaluate.metrics import METRICS, ScoreOptions
from verl_leaf.evaluate.models import BertModel
from verl_leaf.evaluate.report import Evaluation, Grid, Scoring, measure, report_on, write
from verl_leaf.evaluate.systems import System, parse_system, parse_systems
from verl_leaf.judges import JudgeSpec
from verl_leaf.runs.adapters import saved_steps
from verl_leaf.runs.folder import RunFolder

PAPER = Sampling()  # the published sampling is the default


@dataclass(frozen=True)
class Plan:
    """The settings that apply to every evaluated file."""

    sampling: Sampling
    scores: ScoreOptions
    vllm: dict[str, Any]
    common: bool
    judges: tuple[JudgeSpec, ...] = ()
    controls: bool = False


def evaluate(options: argparse.Namespace) -> int:
    """Run the command, and return its exit status."""
    console = Console()
    plan = Plan(
        sampling_of(options, options.passes, options.greedy, options.paper),
        ScoreOptions(
            options.paper, options.tokenize, BertModel.parse(options.bertscore) if options.bertscore else None
        ),
        vllm_arguments(options.vllm),
        options.common,
    )
    systems = parse_systems(options.systems, options.base)
    judges = read_judges(options.judge, len(systems) + (options.checkpoints is not None))
    if options.checkpoints is None and not systems:
        raise ValueError("there is nothing to evaluate. Name a system, or a run with --checkpoints")
    if (options.checkpoints is None) != (options.on is None):
        raise ValueError("--checkpoints RUN selects an adapter --on FILE. Give both options")
    if options.data is None and (systems or options.on is None):
        raise ValueError("--data is missing. Give the parquet file of the rows to answer")
    data = Data(options.data) if options.data else None
    if options.checkpoints is not None:
        on = Data(options.on)
        _check_pick(options, data, on)
        systems.append(_pick(options, plan, on, console))
    if data is not None:
        names = [system.name for system in systems]
        plan = dataclasses.replace(plan, judges=tuple(judges), controls=options.controls)
        if options.controls and not any(row.choices for row in data.rows):
            raise ValueError(f"--controls: no row of {data.path} has choices (extra_info.choices). Remove --controls")
        if options.controls and not any(system.model for system in systems):
            raise ValueError("--controls: files of answers have no controls. Name a model, or remove --controls")
        if options.against not in (None, *names):
            raise ValueError(f"--against {options.against}: there is no such system. Choose one of {', '.join(names)}")
        _evaluate(systems, data, options.out, plan, options.metrics, options.against or names[0], console)
    return 0


def sampling_of(options: argparse.Namespace, passes: int | None, greedy: bool = False, paper: bool = False) -> Sampling:
    """Return how answers are sampled.

    Args:
        options: options of :func:`verl_leaf.evaluate.add_sampling_arguments`.
        passes: answers per row, or None for the default.
        paper: True to refuse what departs from the published protocol.

    Raises:
        ValueError: a value is out of range, or departs from the protocol of ``--paper``.
    """
    fields = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k", "max_tokens", "seed")}
    changes = {name: value for name, value in {"passes": passes, **fields}.items() if value is not None}
    if greedy:
        if changes.keys() & {"temperature", "top_p", "top_k"}:
            raise ValueError("--greedy does not sample. Remove --temperature, --top-p and --top-k")
        changes |= {"passes": 1, "temperature": 0.0, "top_p": 1.0, "top_k": -1}
    sampling = dataclasses.replace(PAPER, **changes)
    valid = {
        "passes": sampling.passes >= 1,
        "temperature": sampling.temperature > 0 or greedy,
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k == -1 or sampling.top_k >= 1,
        "max_tokens": sampling.max_tokens >= 1,
    }
    for name, good in valid.items():
        if not good:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(sampling, name)}: this value is out of range")
    if paper and dataclasses.replace(sampling, seed=PAPER.seed) != PAPER:
        raise ValueError(f"--paper samples as published ({PAPER}). Remove --greedy and the options that differ")
    return sampling


def vllm_arguments(texts: list[str]) -> dict[str, Any]:
    """Return vLLM's arguments from texts ``ARGUMENT=VALUE`` with values in YAML."""
    arguments = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.replace("-", "_")
        try:
            arguments[name] = json.loads(json.dumps(yaml.safe_load(value)))  # JSON turns keys of mappings into text
        except (yaml.YAMLError, TypeError) as error:
            raise ValueError(f"--vllm {text}: the value cannot be read") from error
        if not equals or not name.isidentifier():
            raise ValueError(f"--vllm {text}: write ARGUMENT=VALUE, such as tensor_parallel_size=4")
    return arguments


def _evaluate(
    systems: list[System], data: Data, out: Path, plan: Plan, metrics: list[str] | None, against: str, console: Console
) -> Evaluation:
    """Generate missing answers, and write a report into a folder."""
    references: dict[str, list[str]] = {}
    for row in data.rows:
        references.setdefault(row.data_source, []).extend(row.references)
    choices = {source: all(row.choices for row in data.rows if row.data_source == source) for source in references}
    scoring = Scoring(references, metrics, plan.scores, [source for source, every in choices.items() if every])
    with lock_folder(out):
        models = [system for system in systems if system.model is not None]
        dependencies = {system.name: made_of(system, data, plan.sampling, plan.vllm) for system in models}
        answers = _answers(systems, dependencies, data, out, plan, console)
        grid = Grid.of(answers, len(data.rows), plan.common)
        controls = _controls(models, grid, data, out, plan, console) if plan.controls else {}
        check(grid, plan.judges, against)
        measured = measure(grid, scoring)
        stopped: list[Exception] = []
        summaries: list[dict] = []
        for spec in plan.judges:
            try:
                graded, summary = ask(grid, spec, against, out / "judges")
            except Exception as error:  # the other tables are written before any error is raised
                stopped.append(error)
            else:
                measured.append(graded)
                summaries += summary
        report = dataclasses.replace(report_on(grid, measured, scoring, against), judges=summaries)
        report = with_choices(report, grid, controls)
        fields = [
            {key: value if value is None else str(value) for key, value in vars(system).items()} for system in systems
        ]
        files = write_mmau(grid, data.path, out / "mmau")
        write(report, out, {"data": str(data.path), "systems": fields, "made_of": dependencies}, console)
        if files:
            console.print(f"For MMAU's own evaluation: {', '.join(map(str, files))}")
    for further in stopped[1:]:
        console.print(str(further))
    if stopped:
        raise stopped[0]
    return report


def _answers(
    systems: list[System], dependencies: dict[str, dict], data: Data, out: Path, plan: Plan, console: Console
) -> dict[str, dict[Key, Answer]]:
    """Return the answers of all systems. Missing ones are generated, with one engine per model."""
    rows = dict(enumerate(data.rows))
    answers = {system.name: read_answers(system.answers, rows) for system in systems if system.answers is not None}
    files = {name: AnswerFile(out / "answers" / f"{name}.jsonl", of_name) for name, of_name in dependencies.items()}
    for model in dict.fromkeys(system.model for system in systems if system.model is not None):
        of_model = [(system, files[system.name]) for system in systems if system.model == model]
        generate(model, of_model, data, plan.sampling, plan.vllm)
    for name, file in files.items():
        answers[name] = {key: answer for key, answer in file.values.items() if key[1] < plan.sampling.passes}
        _say_failures(name, list(answers[name].values()), console)
    return {system.name: answers[system.name] for system in systems}


def _controls(models: list[System], grid: Grid, data: Data, out: Path, plan: Plan, console: Console) -> dict[str, Grid]:
    """Return the models' answers to the same rows with each control; missing ones are generated."""
    grids = {}
    for control in CONTROLS:
        controlled, folder = data.with_control(control), out / "controls" / control.replace(" ", "_")
        dependencies = {system.name: made_of(system, controlled, plan.sampling, plan.vllm) for system in models}
        console.print(f"Control: {control}")
        answers = _answers(models, dependencies, controlled, folder, plan, console)
        grids[control] = Grid.at(grid.rows, grid.passes, answers)
    return grids


def _say_failures(name: str, answers: list, console: Console) -> None:
    failed = [answer for answer in answers if answer.finish == "failed"]
    if not failed:
        return
    if len(failed) == len(answers):
        raise ValueError(
            f"{name}: all {len(failed)} answers failed. The first error, in row {failed[0].row}: {failed[0].error}"
        )
    console.print(
        f"{name}: {len(failed)} of {len(answers)} answers failed and are scored as empty. The first error, in row "
        f"{failed[0].row}: {failed[0].error}"
    )


def _check_pick(options: argparse.Namespace, data: Data | None, on: Data) -> None:
    """Raise an error if a checkpoint would be selected on the data that it will be tested on."""
    if options.select not in METRICS:
        raise ValueError(f"--select {options.select}: there is no such metric. Choose one of {', '.join(METRICS)}")
    is_test = "test" in on.splits or re.search(r"(^|[^a-z])test([^a-z]|$)", options.on.stem.lower())
    is_same = data is not None and data.digest() == on.digest()
    if (is_test or is_same) and not options.pick_on_test:
        raise ValueError(
            f"--on {options.on} is a test split, or the same file as --data. A checkpoint that is selected on it looks better "
            "than it is. Select on validation data, or give --pick-on-test and report it"
        )


def _pick(options: argparse.Namespace, plan: Plan, data: Data, console: Console) -> System:
    run = RunFolder(options.checkpoints)
    saved = [step for step in saved_steps(run) if step.step is not None and not step.is_left_over]
    if not saved:
        raise ValueError(f"{run.path} contains no adapters or models of checkpoints (checkpoints/global_step_*)")
    systems = [parse_system(step.name, options.base) for step in saved]
    console.print(f"Selecting one of {len(saved)} checkpoints by {options.select} on {options.on}")
    report = _evaluate(systems, data, options.out / "selection", plan, [options.select], systems[0].name, console)
    means = {line["system"]: line["mean"] for line in report.scores[-len(systems) :]}  # for all data sources together
    lower_is_better = METRICS[options.select][0].endswith("↓")
    best = (min if lower_is_better else max)(systems, key=lambda system: means[system.name])
    console.print(f"Selected: {best.name} ({options.select} {means[best.name]:.4g} on {options.on})")
    return best
