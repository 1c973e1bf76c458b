"""verl's command line for the options of ``verl-leaf train``."""

import functools
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from verl_leaf.config import compose, quoted
from verl_leaf.runs.cluster import has_own_cluster
from verl_leaf.runs.folder import RunFolder

OWN_LOGGERS = ("console", "tensorboard", "file")  # needed to watch and summarise a run


@dataclass
class Training:
    """The options of a training. Relative paths are made absolute."""

    config_name: str
    # Hydra overrides of that configuration. They take precedence over everything except the loggers.
    overrides: tuple[str, ...]
    validation: Path  # parquet file to validate on
    train: tuple[Path, ...] = ()  # parquet files to train on, or none to use those of the overrides
    model: str | None = None  # model folder or hub name, or None to use that of the overrides
    family: str | None = None  # family of the speech model, or None to use that of the configuration
    epochs: int = 1  # number of warm restarts

    def __post_init__(self):
        self.validation = self.validation.absolute()
        self.train = tuple(file.absolute() for file in self.train)
        if self.model is not None and (model := Path(self.model).expanduser()).exists():
            self.model = str(model.absolute())

    def record(self) -> dict[str, Any]:
        """Return the options as plain values; equal records mean equal runs."""
        return {
            **asdict(self),
            "overrides": list(self.overrides),
            "validation": str(self.validation),
            "train": [str(file) for file in self.train],
        }

    def settings(self) -> list[str]:
        """Return Hydra overrides for verl, those from options first, so that the user's overrides take precedence."""
        settings = [] if self.family is None else [f"family={self.family}"]
        if self.train:
            files = ",".join(quoted(file) for file in self.train)
            settings.append(f"data.train_files=[{files}]")
        if self.model is not None:
            settings.append(f"actor_rollout_ref.model.path={quoted(self.model)}")
        return [*settings, *self.overrides]

    @functools.cached_property
    def config(self) -> DictConfig:
        """The configuration of these options, composed once because it takes seconds.

        Raises:
            ValueError: the options do not make a configuration.
        """
        return compose(self.config_name, self.settings())


@dataclass(frozen=True)
class Part:
    """A run of verl: the whole training, or one of its epochs."""

    folder: RunFolder
    adapter: Path | None  # to start from


def verl_command(training: Training, part: Part, *, validate_first: bool, val_files: list[Path]) -> list[str]:
    """Return the command ``python -m verl.trainer.main_ppo`` with everything that a run in a folder needs."""
    config, folder = training.config, part.folder
    environment = {
        "TENSORBOARD_DIR": folder.tensorboard,
        # TensorBoard's writer buffers for two minutes, which a kill would lose. This logger writes at once, to a new file.
        "VERL_FILE_LOGGER_PATH": folder.metrics / f"{len(list(folder.metrics.glob('*'))):03d}.jsonl",
    }
    settings: dict[str, str] = {
        "data.val_files": f"[{','.join(quoted(file) for file in val_files)}]",
        "trainer.project_name": "verl_leaf",
        "trainer.experiment_name": quoted(folder.path.name),
        "trainer.default_local_dir": quoted(folder.checkpoints),
        "trainer.validation_data_dir": quoted(folder.validation),
        "trainer.checkpoint_callback_class": "verl_leaf.runs.checkpoints.adapter.SaveAdapter",
        "trainer.val_before_train": str(validate_first),
        "hydra.run.dir": quoted(folder.path / "hydra"),
        # The trainer may run on any node of a cluster, which does not inherit this environment.
        **{f"++ray_kwargs.ray_init.runtime_env.env_vars.{name}": quoted(path) for name, path in environment.items()},
    }
    if has_own_cluster(config):
        settings["++ray_kwargs.ray_init.address"] = "local"
    if part.adapter is not None:
        settings["actor_rollout_ref.model.lora_adapter_path"] = quoted(part.adapter)
    traces = config.algorithm.adv_estimator == "leaf" and config.trainer.use_v1  # only this trainer writes them
    if traces and OmegaConf.select(config, "algorithm.leaf.trace_dir") is None:
        settings["++algorithm.leaf.trace_dir"] = quoted(folder.traces)
    return [
        *(sys.executable, "-m", "verl.trainer.main_ppo", f"--config-name={training.config_name}"),
        *(f"{name}={value}" for name, value in settings.items()),
        *training.settings(),
        "data.val_max_samples=-1",  # the files contain only the rows to use
        f"trainer.logger=[{','.join(quoted(name) for name in loggers(config))}]",
    ]


def loggers(config: DictConfig) -> list[str]:
    """Return the run's own loggers, followed by those that the configuration adds.

    Raises:
        ValueError: ``trainer.logger`` is neither a name nor a list of names.
    """
    names = config.trainer.logger
    if names is None or isinstance(names, str):
        names = [] if names is None else [names]
    if not isinstance(names, list | ListConfig) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"trainer.logger={names}: set it to the name of a logger, or a list of names")
    return list(dict.fromkeys([*OWN_LOGGERS, *names]))
