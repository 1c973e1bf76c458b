"""What a finished run amounts to: ``summary.json`` and a table."""

import itertools
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import sacrebleu
from omegaconf import OmegaConf
from rich.markup import escape
from rich.table import Table

from verl_leaf import config
from verl_leaf.common.console import Console
from verl_leaf.common.files import json_lines, whole_folder, write_file
from verl_leaf.common.names import SWAPPED_AUDIO_SUFFIX
from verl_leaf.patches.update_counts import SKIPPED, UPDATES
from verl_leaf.runs.adapters import RunAdapter, newest, run_adapters
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import Scalars, is_score, read_scalars

PHASES = ("step", "gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights", "save_checkpoint", "testing")
PROBS_DIFF = "training/rollout_probs_diff_max"
MAX_SKIPPED_SHARE = 0.1  # of its updates; a run that skipped more has not trained as it was asked to

Scores = dict[str, float | None]


def summarise(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Write ``summary.json`` and ``adapter/`` of a run that has ended, and print the table.

    Args:
        folder: a folder that :func:`verl_leaf.runs.launch.train` has filled.
        console: for the table.

    Returns:
        What ``summary.json`` holds. BLEU is sacrebleu's case-insensitive corpus BLEU (0 to 100) over the sampled answers
        of a validation, as the paper reports it; ``reward`` the mean reward of the same answers. ``seconds_per_step`` are
        verl's timings, the median of the steps that have them. What the run did not measure is None.
    """
    config.register()
    settings = OmegaConf.load(folder.config)
    scalars = read_scalars(folder.metrics)
    steps = max(map(int, scalars.get("training/global_step", {0: 0})))
    summary = {
        "method": settings.algorithm.adv_estimator,
        "model": settings.actor_rollout_ref.model.path,
        "steps": steps,
        "rollouts": steps * settings.data.train_batch_size * settings.actor_rollout_ref.rollout.n,
        "updates": {"all": _total(scalars, UPDATES), "skipped": _total(scalars, SKIPPED)},
        "val": _validations(folder, scalars),
        "rollout_probs_diff_max": max(scalars[PROBS_DIFF].values()) if PROBS_DIFF in scalars else None,
        "seconds_per_step": {
            phase: statistics.median(list(scalars[f"timing_s/{phase}"].values()))
            for phase in PHASES
            if f"timing_s/{phase}" in scalars
        },
    }
    _finish(folder, summary, run_adapters(folder), console)
    return summary


def summarise_epochs(folder: RunFolder, console: Console) -> None:
    """Write ``summary.json`` and ``adapter/`` of a run from those of its epochs, and print the table."""
    epochs = folder.epochs()
    summaries = [json.loads(epoch.summary.read_text(encoding="utf-8")) for epoch in epochs]
    differences = [each["rollout_probs_diff_max"] for each in summaries]
    summary = {
        **summaries[-1],
        "epochs": len(epochs),
        "steps": sum(each["steps"] for each in summaries),
        "rollouts": sum(each["rollouts"] for each in summaries),
        "updates": {key: _sum([each["updates"][key] for each in summaries]) for key in ("all", "skipped")},
        "val": {**summaries[-1]["val"], "before": summaries[0]["val"]["before"]},
        "rollout_probs_diff_max": max((each for each in differences if each is not None), default=None),
        "seconds_per_step": {
            phase: statistics.median([each["seconds_per_step"][phase] for each in summaries])
            for phase in PHASES
            if all(phase in each["seconds_per_step"] for each in summaries)
        },
    }
    _finish(folder, summary, run_adapters(epochs[-1]), console)


def trained(summary: dict[str, Any]) -> bool:
    """Whether verl applied nearly all updates of a run; a run without any was not asked to train."""
    updates, skipped = summary["updates"]["all"], summary["updates"]["skipped"]
    return not updates or not skipped or skipped <= MAX_SKIPPED_SHARE * updates


def read_validation(file: Path, has_swapped: bool = True) -> tuple[Scores, Scores | None]:
    """Scores of a validation's answers, and of those to swapped audio, where there are any.

    Args:
        file: the answers, as verl dumps them.
        has_swapped: whether some are to swapped audio.

    Returns:
        ``bleu`` and ``reward`` are None where a reward function of one's own leaves nothing to tell the answers to swapped
        audio by, and ``bleu`` where references are no texts.
    """
    rows = [row for _, row in json_lines(file)]
    if not has_swapped:
        return _scores(rows), None
    if not all(isinstance(row.get("data_source"), str) for row in rows):
        return {"bleu": None, "reward": None}, None
    swapped = [row for row in rows if row["data_source"].endswith(SWAPPED_AUDIO_SUFFIX)]
    own = [row for row in rows if not row["data_source"].endswith(SWAPPED_AUDIO_SUFFIX)]
    return _scores(own), _scores(swapped) if swapped else None


def _scores(rows: list[dict]) -> Scores:
    if not rows:
        return {"bleu": None, "reward": None}
    rewards = [row["score"] for row in rows if isinstance(row.get("score"), int | float)]
    return {
        "bleu": _bleu([row["output"] for row in rows], [row["gts"] for row in rows]),
        "reward": sum(rewards) / len(rewards) if rewards else None,
    }


def _bleu(answers: list[str], references: list) -> float | None:
    """Case-insensitive corpus BLEU, with one reference per answer or several."""
    several = [reference if isinstance(reference, list) else [reference] for reference in references]
    if not all(isinstance(text, str | int | float) and not isinstance(text, bool) for own in several for text in own):
        return None
    columns = [list(column) for column in itertools.zip_longest(*([str(text) for text in own] for own in several))]
    return sacrebleu.corpus_bleu(answers, columns, lowercase=True).score if columns else None


def _validations(folder: RunFolder, scalars: Scalars) -> dict[str, Scores | None]:
    """Scores before and after training, and with swapped audio at last; None where there was no such validation."""
    steps = folder.validated_steps()
    scores = {step: _validation(folder, step, scalars) for step in {*steps[:1], *steps[-1:]}}
    return {
        "before": scores[0][0] if 0 in scores else None,
        "after": scores[steps[-1]][0] if steps and steps[-1] > 0 else None,
        "swapped_audio": scores[steps[-1]][1] if steps else None,
    }


def _validation(folder: RunFolder, step: int, scalars: Scalars) -> tuple[Scores, Scores | None]:
    own, swapped = read_validation(folder.answers_of(step), folder.swapped_rows.exists())
    if own["reward"] is None and swapped is None:  # verl itself reports the reward for each data source
        means = {
            name.split("/")[1]: values[step] for name, values in scalars.items() if is_score(name) and step in values
        }
        others = [mean for source, mean in means.items() if source.endswith(SWAPPED_AUDIO_SUFFIX)]
        sources = [mean for source, mean in means.items() if not source.endswith(SWAPPED_AUDIO_SUFFIX)]
        own["reward"] = sources[0] if len(sources) == 1 else None
        swapped = {"bleu": None, "reward": others[0]} if len(others) == 1 else None
    return own, swapped


def _total(scalars: Scalars, name: str) -> int | None:
    return int(sum(scalars[name].values())) if name in scalars else None


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _finish(folder: RunFolder, summary: dict[str, Any], adapters: list[RunAdapter], console: Console) -> None:
    # What the folder holds from an earlier end is not this run's.
    adapter = newest([adapter for adapter in adapters if adapter.path != folder.adapter])
    summary["adapter_step"] = None if adapter is None else adapter.step
    if adapter is not None:
        with whole_folder(folder.adapter, replace=True) as scratch:
            shutil.copytree(adapter.path, scratch, dirs_exist_ok=True)
    write_file(folder.summary, json.dumps(summary, indent=1, ensure_ascii=False))
    if not trained(summary):
        updates = summary["updates"]
        console.print(
            f"[red]Not trained: verl skipped {updates['skipped']} of {updates['all']} updates, whose gradients were not "
            f"finite.[/red] Look for the first in {escape(str(folder.log))}",
            soft_wrap=True,
        )
    _show(summary, folder, console)


def _show(summary: dict[str, Any], folder: RunFolder, console: Console) -> None:
    table = Table(title=f"{summary['method']}: {summary['steps']} steps, {summary['rollouts']} rollouts")
    for name in ("validation", "BLEU", "reward"):
        table.add_column(name, justify="left" if name == "validation" else "right")
    for label, key in (("before", "before"), ("after", "after"), ("another clip's audio", "swapped_audio")):
        if (scores := summary["val"][key]) is not None:
            table.add_row(label, _digits(scores["bleu"], 1), _digits(scores["reward"], 3))
    if table.row_count:
        console.print(table)
    else:
        console.print(f"{table.title}; no validation")
    seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in summary["seconds_per_step"].items())
    if seconds:
        console.print(f"Median seconds per step: {seconds}")
    if summary["rollout_probs_diff_max"] is not None:
        console.print(f"Largest difference of rollout and actor probability: {summary['rollout_probs_diff_max']:.1e}")
    console.print(f"Run: {folder.path}", soft_wrap=True, markup=False)
    if summary["adapter_step"] is not None:
        step = f"step {summary['adapter_step']}"
        console.print(f"Adapter of {step}, in PEFT's format: {folder.adapter}", soft_wrap=True, markup=False)


def _digits(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
