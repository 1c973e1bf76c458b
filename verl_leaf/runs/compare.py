"""Reading of what runs have logged, finished or not, and labels for the settings in which they differ."""

import math
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from verl_leaf.runs.folder import RunFolder, flat
from verl_leaf.runs.metrics import Scalars, read_scalars

ROLLOUTS_PER_STEP = ("data.train_batch_size", "actor_rollout_ref.rollout.n")  # recipes compute these factors
# Settings in which runs of the same method may differ: seeds, folders, names.
INCIDENTAL = (
    "seed",
    "trace_dir",
    "trace_every",
    "experiment_name",
    "project_name",
    "default_local_dir",
    "validation_data_dir",
    "val_files",
    "val_before_train",
    "total_training_steps",
    "total_epochs",
    "save_freq",
    "test_freq",
)


@dataclass(frozen=True)
class Run:
    """The current state of a run."""

    name: str  # name of its folder, with as many parent folders as needed to be unique
    label: str  # estimator and settings that distinguish its method; equal for runs that differ only in seeds
    scalars: Scalars  # values that verl logged, `{name: {step: value}}`
    rollouts_per_step: int | None  # responses per training step, or None if the configuration is unknown
    reward: str | None  # name of the reward function, or None if it is unknown or depends on the data source
    summary: dict[str, Any]  # content of `summary.json`, empty before the run has ended
    skipped: list[str]  # one sentence per file with lines that cannot be read

    def seconds(self, step: int) -> float:
        """Return the seconds that the steps up to one took, without start-up, validations and interruptions."""
        steps, sums = self._clock
        return sums[bisect_right(steps, step)]

    @cached_property
    def _clock(self) -> tuple[list[int], list[float]]:
        """The timed steps, and the seconds before the first and after each of them."""
        timed = sorted(self.scalars.get("timing_s/step", {}).items())
        return [step for step, _ in timed], [0.0, *accumulate(seconds for _, seconds in timed)]


def read_runs(folders: list[Path]) -> list[Run]:
    """Read runs from the files of ``verl-leaf train``, or else of TensorBoard.

    Raises:
        ValueError: a folder contains neither.
    """
    configs = [_flat_config(folder) for folder in folders]
    names, labels = run_names(folders), method_labels(configs)
    runs = []
    for folder, config, name, label in zip(folders, configs, names, labels, strict=True):
        counts: list[Any] = [config.get(key) for key in ROLLOUTS_PER_STEP]
        known = all(isinstance(count, int) and 0 < count < 10**9 for count in counts)
        skipped: list[str] = []
        scalars, summary = _scalars(folder, skipped), RunFolder(folder).read_summary()
        reward = config.get("reward.custom_reward_function.name")
        rollouts = math.prod(counts) if known else None
        runs.append(Run(name, label or name, scalars, rollouts, reward and str(reward), summary, skipped))
    return runs


def run_names(folders: list[Path]) -> list[str]:
    """Return short unique names: the folders' names, with parent folders if needed."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"{folders[0]} is given twice. Name each run once")


def method_labels(configs: list[dict[str, Any]]) -> list[str]:
    """Return each run's estimator with the settings in which the runs differ; empty if unknown."""
    known = [config for config in configs if config]
    keys = {key for config in known for key in config}
    differing = sorted(
        key
        for key in keys
        if key != "algorithm.adv_estimator"
        and not any(part in INCIDENTAL for part in key.replace("_seed", ".seed").split("."))
        and len({repr(config.get(key)) for config in known}) > 1
    )
    labels = []
    for config in configs:
        values = [f"{key.rsplit('.', 1)[-1]}={config[key]}" for key in differing if key in config]
        method = str(config.get("algorithm.adv_estimator", "unknown method"))
        labels.append(", ".join([method, *values]) if config else "")
    return labels


def _flat_config(path: Path) -> dict[str, Any]:
    folder = RunFolder(path)
    config = next(iter(folder.epochs()), folder).read_config()
    if config is None:
        return {}
    settings = flat(OmegaConf.to_container(config))  # unresolved: ${oc.env:...} would be this machine's
    for key in ROLLOUTS_PER_STEP:
        with suppress(OmegaConfBaseException):
            if isinstance(count := OmegaConf.select(config, key), int):
                settings[key] = count
    return settings


def _scalars(path: Path, skipped: list[str]) -> Scalars:
    folder = RunFolder(path)
    if epochs := folder.epochs():
        return _joined([read_scalars(epoch.metrics, skipped) for epoch in epochs])
    return read_scalars(folder.metrics, skipped) or _tensorboard_scalars(path)


def _tensorboard_scalars(folder: Path) -> Scalars:
    scalars: Scalars = {}
    # An interrupted run has several files. If a step ran twice, the later file's value is used.
    for file in sorted(folder.rglob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for name in events.Tags()["scalars"]:
            scalars.setdefault(name, {}).update({event.step: event.value for event in events.Scalars(name)})
    if not scalars:
        raise ValueError(
            f"{folder} contains no metrics/*.jsonl and no TensorBoard files. Give the folder of a run of `verl-leaf train`, "
            "or one with files of trainer.logger=[tensorboard]. A run that has just started has none yet"
        )
    return scalars


def _joined(epochs: list[Scalars]) -> Scalars:
    """Return the scalars of epochs as those of one run with continuing step numbers."""
    scalars: Scalars = {}
    done = 0
    for epoch in epochs:
        for name, values in epoch.items():
            scalars.setdefault(name, {}).update({done + step: value for step, value in values.items()})
        done += max(epoch.get("training/global_step", {0: 0}))
    return scalars
