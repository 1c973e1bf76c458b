"""What a finished run amounts to: ``summary.json`` and a table."""

import itertools
import json
import shutil
from pathlib import Path

import sacrebleu
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from verl_leaf.speech.names import SWAPPED_AUDIO_SUFFIX

PHASES = ("step", "gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights", "save_checkpoint", "testing")


def summarise(folder: Path, console: Console) -> dict:
    """Write ``summary.json`` and ``adapter/`` of a run whose training has ended, and print the table.

    Args:
        folder: a folder that :func:`verl_leaf.runs.launch.train` has filled.

    Returns:
        What ``summary.json`` holds. BLEU is sacrebleu's case-insensitive corpus BLEU (0 to 100) over the sampled answers
        of a validation, as the paper reports it; ``reward`` the mean reward of the same answers. ``seconds`` are
        veRL's timings, the mean of the steps that have them.
    """
    config = OmegaConf.load(folder / "hydra" / ".hydra" / "config.yaml")
    scalars = read_scalars(folder / "metrics")
    steps = sorted(scalars["training/global_step"])
    validations = [int(file.stem) for file in (folder / "validation").glob("*.jsonl")]
    before, after = (
        read_validation(folder / "validation" / f"{step}.jsonl") if step in validations else {}
        for step in (0, max(validations, default=0))
    )
    summary = {
        "method": config.algorithm.adv_estimator,
        "model": config.actor_rollout_ref.model.path,
        "steps": int(steps[-1]),
        "rollouts": int(steps[-1]) * config.data.train_batch_size * config.actor_rollout_ref.rollout.n,
        "val": {
            name: scores[key]
            for name, scores, key in (
                ("before", before, ""),
                ("after", after, ""),
                ("swapped_audio", after, SWAPPED_AUDIO_SUFFIX),
            )
            if key in scores
        },
        "rollout_probs_diff_max": max(scalars["training/rollout_probs_diff_max"].values()),
        "seconds": {
            phase: sum(values.values()) / len(values)
            for phase in PHASES
            if (values := scalars.get(f"timing_s/{phase}"))
        },
    }
    adapter = folder / "checkpoints" / f"global_step_{summary['steps']}" / "adapter"
    if adapter.exists():
        shutil.copytree(adapter, folder / "adapter", dirs_exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    _print(summary, folder, console)
    return summary


def summarise_epochs(folder: Path, epochs: list[Path], console: Console) -> None:
    """Write ``summary.json`` and ``adapter/`` of a run from those of its epochs, and print the table."""
    summaries = [json.loads((epoch / "summary.json").read_text()) for epoch in epochs]
    summary = {
        **summaries[-1],
        "epochs": len(epochs),
        "steps": sum(each["steps"] for each in summaries),
        "rollouts": sum(each["rollouts"] for each in summaries),
        "rollout_probs_diff_max": max(each["rollout_probs_diff_max"] for each in summaries),
        "seconds": {
            phase: sum(each["seconds"][phase] for each in summaries) / len(summaries)
            for phase in PHASES
            if all(phase in each["seconds"] for each in summaries)
        },
    }
    if "before" in summaries[0]["val"]:
        summary["val"]["before"] = summaries[0]["val"]["before"]
    shutil.copytree(epochs[-1] / "adapter", folder / "adapter", dirs_exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    _print(summary, folder, console)


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What veRL's file loggers wrote, as ``{name: {step: value}}``; where a step was run again, the later value."""
    scalars: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        # A kill can cut off the last line of a file.
        for line in filter(lambda line: line.endswith("\n"), file.open()):
            row = json.loads(line)
            for name, value in row["data"].items():
                if value is not None:  # JSON has no NaN
                    scalars.setdefault(name, {})[row["step"]] = value
    return scalars


def read_validation(file: Path) -> dict[str, dict[str, float]]:
    """BLEU and mean reward of a validation dump, of the true rows (key ``""``) and of those with swapped audio, where there are any."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    result = {}
    for key in ("", SWAPPED_AUDIO_SUFFIX):
        chosen = [row for row in rows if row["data_source"].endswith(SWAPPED_AUDIO_SUFFIX) == bool(key)]
        if not chosen:
            continue
        references = [[row["gts"]] if isinstance(row["gts"], str) else row["gts"] for row in chosen]
        columns = [list(column) for column in itertools.zip_longest(*references)]
        result[key] = {
            "bleu": sacrebleu.corpus_bleu([row["output"] for row in chosen], columns, lowercase=True).score,
            "reward": sum(row["score"] for row in chosen) / len(chosen),
        }
    return result


def _print(summary: dict, folder: Path, console: Console) -> None:
    table = Table(title=f"{summary['method']}: {summary['steps']} steps, {summary['rollouts']} rollouts")
    for name in ("validation", "BLEU", "reward"):
        table.add_column(name, justify="left" if name == "validation" else "right")
    for label, key in (("before", "before"), ("after", "after"), ("after, another clip's audio", "swapped_audio")):
        if key in summary["val"]:
            table.add_row(label, f"{summary['val'][key]['bleu']:.1f}", f"{summary['val'][key]['reward']:.3f}")
    console.print(table)
    seconds = summary["seconds"]
    console.print("Seconds a step: " + ", ".join(f"{phase} {value:.2f}" for phase, value in seconds.items()))
    console.print(f"Largest difference of rollout and actor probability: {summary['rollout_probs_diff_max']:.1e}")
    console.print(f"Run: {folder}", soft_wrap=True)
    console.print(f"Adapter in PEFT's format: {folder / 'adapter'}")
