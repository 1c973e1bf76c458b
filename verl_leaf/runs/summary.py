"""The summary of a finished run: ``summary.json`` and a table."""

import contextlib
import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from verl_leaf import config
from verl_leaf.common.console import Console
from verl_leaf.common.files import json_lines, whole_folder, write_file
from verl_leaf.common.names import REWARD_PATHS, SWAPPED_AUDIO_SUFFIX
from verl_leaf.common.tables import show
from verl_leaf.data.rows import reference_texts
from verl_leaf.patches.update_counts import SKIPPED, UPDATES
from verl_leaf.rewards import REWARDS
from verl_leaf.rewards.corpus import CorpusBleu
from verl_leaf.rewards.options import metrics_of
from verl_leaf.runs.adapters import SavedStep, newest, run_adapters
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import Scalars, read_scalars, reward_source

PHASES = ("step", "gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights", "save_checkpoint", "testing")
PROBS_DIFF = "training/rollout_probs_diff_max"
MAX_SKIPPED_SHARE = 0.1  # of its updates; a run that skipped more counts as not trained

Scores = dict[str, float | None]
MISSING: Scores = {"bleu": None, "reward": None}


class Validation(NamedTuple):
    """The scores of a validation."""

    scores: Scores  # values of `bleu` and `reward`, None if unknown
    control: Scores | None  # the same scores for the answers to other clips' audio, or None if there are none
    signature: str | None  # sacrebleu's signature of the BLEU settings


def summarise(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Write ``summary.json`` and ``adapter/`` of a run that has ended, and print a table.

    Returns:
        The content of ``summary.json``. ``bleu`` is sacrebleu's corpus BLEU (0 to 100) over a validation's sampled
        answers, case-insensitive as in the paper; ``bleu_signature`` names the tokeniser. ``reward`` is the mean reward of
        the same answers, and ``step`` the step of the validation. ``seconds_per_step`` contains verl's timings, each the
        median over the steps that have it. A value that the run did not measure is None.
    """
    config.register()
    settings = OmegaConf.load(folder.config)
    assert isinstance(settings, DictConfig)
    scalars = read_scalars(folder.metrics)
    steps = max(map(int, scalars.get("training/global_step", {0: 0})))
    val, signature = _validations(folder, settings, scalars, steps)
    summary = {
        "method": settings.algorithm.adv_estimator,
        "model": settings.actor_rollout_ref.model.path,
        "steps": steps,
        "rollouts": steps * settings.data.train_batch_size * settings.actor_rollout_ref.rollout.n,
        "updates": {"all": _total(scalars, UPDATES), "skipped": _total(scalars, SKIPPED)},
        "val": val,
        "bleu_signature": signature,
        "rollout_probs_diff_max": max(scalars[PROBS_DIFF].values()) if PROBS_DIFF in scalars else None,
        "seconds_per_step": {
            phase: statistics.median(scalars[f"timing_s/{phase}"].values())
            for phase in PHASES
            if f"timing_s/{phase}" in scalars
        },
    }
    _finish(folder, summary, run_adapters(folder), console)
    return summary


def summarise_epochs(folder: RunFolder, console: Console) -> None:
    """Write ``summary.json`` and ``adapter/`` of a run from those of its epochs, and print a table."""
    epochs = folder.epochs()
    summaries = [epoch.read_summary() for epoch in epochs]
    last = summaries[-1]
    differences = [epoch["rollout_probs_diff_max"] for epoch in summaries]
    earlier = sum(epoch["steps"] for epoch in summaries[:-1])
    val = {name: scores and {**scores, "step": earlier + scores["step"]} for name, scores in last["val"].items()}
    summary = {
        **last,
        "epochs": len(epochs),
        "steps": earlier + last["steps"],
        "rollouts": sum(epoch["rollouts"] for epoch in summaries),
        "updates": {key: _sum([epoch["updates"][key] for epoch in summaries]) for key in ("all", "skipped")},
        "val": {**val, "before": summaries[0]["val"]["before"]},
        "rollout_probs_diff_max": max((diff for diff in differences if diff is not None), default=None),
        "seconds_per_step": {
            phase: statistics.median([epoch["seconds_per_step"][phase] for epoch in summaries])
            for phase in PHASES
            if all(phase in epoch["seconds_per_step"] for epoch in summaries)
        },
    }
    _finish(folder, summary, run_adapters(epochs[-1]), console)


def trained(summary: dict[str, Any]) -> bool:
    """Return whether verl applied nearly all updates of a run. A run without updates was not meant to train."""
    updates, skipped = summary["updates"]["all"], summary["updates"]["skipped"]
    return not updates or not skipped or skipped <= MAX_SKIPPED_SHARE * updates


def read_validation(file: Path, has_swapped: bool = True, settings: DictConfig | None = None) -> Validation:
    """Score a validation's answers.

    Args:
        has_swapped: True if some answers are to other clips' audio. Their data source marks them. If a custom reward
            function leaves the data source out, all scores are missing.
        settings: verl's configuration, whose reward settings name the tokeniser.
    """
    rows = [row for _, row in json_lines(file)]
    if has_swapped and not all(isinstance(row.get("data_source"), str) for row in rows):
        return Validation(MISSING, None, None)
    settings = settings or DictConfig({})
    texts = [*map(_texts, rows)]
    bleu = None
    if not any(_chooses(settings, source) for source, *_ in texts):
        with contextlib.suppress(ValueError):  # only a custom reward can use these references
            bleu = CorpusBleu(settings, ((source, references) for source, _, references in texts))
    answers: dict[bool, list[dict]] = {False: [], True: []}
    for row in rows:
        answers[has_swapped and row["data_source"].endswith(SWAPPED_AUDIO_SUFFIX)].append(row)
    control = _scores(answers[True], bleu) if answers[True] else None
    return Validation(_scores(answers[False], bleu), control, None if bleu is None else bleu.signature)


def _chooses(settings: DictConfig, source: str) -> bool:
    """Return whether the reward of a data source reads choices: its references are a letter and a text, not answers."""
    reward = OmegaConf.select(settings, "reward.custom_reward_function") or {}
    if reward.get("path") not in REWARD_PATHS or reward.get("name") not in REWARDS:
        return False
    return "choice" in metrics_of(reward["name"], reward.get("reward_kwargs") or {}, source)


def _texts(row: dict) -> tuple[str, str, list[str]]:
    return str(row.get("data_source", "")), row["output"], reference_texts(row["gts"])


def _scores(rows: list[dict], bleu: CorpusBleu | None) -> Scores:
    if not rows:
        return MISSING
    rewards = [row.get("score") for row in rows]
    known = [reward for reward in rewards if isinstance(reward, int | float) and math.isfinite(reward)]
    return {
        "bleu": None if bleu is None else bleu([*map(_texts, rows)]),
        "reward": statistics.fmean(known) if len(known) == len(rewards) else None,
    }


def _validations(
    folder: RunFolder, settings: DictConfig, scalars: Scalars, steps: int
) -> tuple[dict[str, dict | None], str | None]:
    """Return the scores before training, after training and of the last control, each with its step, and BLEU's signature.

    A validation that does not exist is None. A validation after the last step remains from an earlier training.
    """
    validated = [step for step in folder.validated_steps() if step <= steps]
    if not validated:
        return {"before": None, "after": None, "swapped_audio": None}, None
    last = validated[-1]
    validations = {step: _validation(folder, settings, step, scalars) for step in {0, last}.intersection(validated)}
    control = validations[last].control
    val = {
        "before": {**validations[0].scores, "step": 0} if 0 in validations else None,
        "after": {**validations[last].scores, "step": last} if last > 0 else None,
        "swapped_audio": None if control is None else {**control, "step": last},
    }
    return val, validations[last].signature


def _validation(folder: RunFolder, settings: DictConfig, step: int, scalars: Scalars) -> Validation:
    validation = read_validation(folder.answers_of(step), folder.swapped_rows.exists(), settings)
    if validation.scores["reward"] is not None or validation.control is not None:
        return validation
    means = [  # verl itself reports the reward of each data source
        (source, values[step])
        for name, values in scalars.items()
        if step in values and (source := reward_source(name)) is not None
    ]
    rewards = [mean for source, mean in means if not source.endswith(SWAPPED_AUDIO_SUFFIX)]
    control = [mean for source, mean in means if source.endswith(SWAPPED_AUDIO_SUFFIX)]
    return validation._replace(
        scores={**validation.scores, "reward": rewards[0] if len(rewards) == 1 else None},
        control={**MISSING, "reward": control[0]} if len(control) == 1 else None,
    )


def _total(scalars: Scalars, name: str) -> int | None:
    return int(sum(scalars[name].values())) if name in scalars else None


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _finish(folder: RunFolder, summary: dict[str, Any], adapters: list[SavedStep], console: Console) -> None:
    # run.adapter may remain from an earlier end of the run.
    adapter = newest([adapter for adapter in adapters if adapter.path != folder.adapter])
    summary["adapter_step"] = None if adapter is None else adapter.step
    if adapter is not None:
        with whole_folder(folder.adapter, replace=True) as scratch:
            shutil.copytree(adapter.path, scratch, dirs_exist_ok=True)
    write_file(folder.summary, json.dumps(summary, indent=1, ensure_ascii=False))
    if not trained(summary):
        updates = summary["updates"]
        console.print(
            f"Not trained: verl skipped {updates['skipped']} of {updates['all']} updates, because their gradients were not "
            f"finite. Look for the first one in {folder.log}",
            style="red",
        )
    _show(summary, folder, console)


def _show(summary: dict[str, Any], folder: RunFolder, console: Console) -> None:
    labels = {"before": "before", "after": "after", "swapped_audio": "another clip's audio"}
    rows = [
        (label, str(scores["step"]), _digits(scores["bleu"], 1), _digits(scores["reward"], 3))
        for key, label in labels.items()
        if (scores := summary["val"][key]) is not None
    ]
    title = f"{summary['method']}: {summary['steps']} steps, {summary['rollouts']} rollouts"
    if rows:
        show(title, ("validation", "step", "BLEU", "reward"), rows, words=1, console=console)
    else:
        console.print(f"{title}; no validation")
    if summary["bleu_signature"]:
        console.print(f"BLEU: {summary['bleu_signature']}")
    if seconds := ", ".join(f"{phase} {value:.2f}" for phase, value in summary["seconds_per_step"].items()):
        console.print(f"Median seconds per step: {seconds}")
    if (difference := summary["rollout_probs_diff_max"]) is not None:
        console.print(f"Largest difference between rollout and actor probability: {difference:.1e}")
    console.print(f"Run: {folder.path}")
    if summary["adapter_step"] is not None:
        console.print(f"Adapter of step {summary['adapter_step']}, in PEFT's format: {folder.adapter}")


def _digits(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
