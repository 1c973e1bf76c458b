"""verl's command of a run, from what ``verl-leaf train`` was told."""

import functools
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_leaf.config import compose, quoted
from verl_leaf.runs.cluster import has_own_cluster
from verl_leaf.runs.folder import RunFolder

OWN_LOGGERS = ("console", "tensorboard", "file")  # what a run is watched and summed up by


@dataclass
class Training:
    """What a user asks for. Its paths become absolute: they start from the folder in which the user is.

    Attributes:
        config_name: verl's ``--config-name``.
        overrides: of that configuration, in Hydra's notation; the last word on everything but the loggers.
        validation: parquet file to validate on.
        train: parquet files to train on; as the overrides have it if empty.
        model: model folder or hub name; as the overrides have it if None.
        family: of the speech model; as the configuration has it if None.
        epochs: warm restarts.
    """

    config_name: str
    overrides: tuple[str, ...]
    validation: Path
    train: tuple[Path, ...] = ()
    model: str | None = None
    family: str | None = None
    epochs: int = 1

    def __post_init__(self):
        self.validation = self.validation.absolute()
        self.train = tuple(file.absolute() for file in self.train)
        if self.model is not None and (model := Path(self.model).expanduser()).exists():
            self.model = str(model.absolute())

    def record(self) -> dict[str, Any]:
        """Return it as plain values: two runs with the same record do the same."""
        return {
            **asdict(self),
            "overrides": list(self.overrides),
            "validation": str(self.validation),
            "train": [str(file) for file in self.train],
        }

    def settings(self) -> list[str]:
        """Overrides for verl: what has an option of its own first, so that the user's win."""
        settings = [] if self.family is None else [f"family={self.family}"]
        if self.train:
            files = ",".join(quoted(file) for file in self.train)
            settings.append(f"data.train_files=[{files}]")
        if self.model is not None:
            settings.append(f"actor_rollout_ref.model.path={quoted(self.model)}")
        return [*settings, *self.overrides]

    @functools.cached_property
    def config(self) -> DictConfig:
        """The configuration that the settings make, composed once: it takes seconds.

        Raises:
            ValueError: they make none.
        """
        return compose(self.config_name, self.settings())


def verl_command(
    training: Training, folder: RunFolder, *, validate_first: bool, val_files: list[Path], adapter: Path | None
) -> list[str]:
    """``python -m verl.trainer.main_ppo`` with everything that a run in a folder needs.

    Args:
        training: what the user asks for.
        folder: of the run, or of one of its epochs.
        validate_first: validate before training.
        val_files: parquet files to validate on.
        adapter: to begin with; none if None.
    """
    config = training.config
    environment = {
        "TENSORBOARD_DIR": folder.tensorboard,
        # TensorBoard's writer keeps two minutes back, which a kill would lose; this one writes at once, to a new file.
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
        # The trainer may run on any node of a cluster, which does not inherit our environment.
        **{f"++ray_kwargs.ray_init.runtime_env.env_vars.{name}": quoted(path) for name, path in environment.items()},
    }
    if has_own_cluster(config):
        settings["++ray_kwargs.ray_init.address"] = "local"
    if adapter is not None:
        settings["actor_rollout_ref.model.lora_adapter_path"] = quoted(adapter)
    if _traces_belong_here(config):
        settings["++algorithm.leaf.trace_dir"] = quoted(folder.traces)
    return [
        *(sys.executable, "-m", "verl.trainer.main_ppo"),
        *(f"--config-name={training.config_name}",),
        *(f"{name}={value}" for name, value in settings.items()),
        *training.settings(),
        "data.val_max_samples=-1",  # the files hold no others
        f"trainer.logger=[{','.join(quoted(name) for name in loggers(config))}]",
    ]


def _traces_belong_here(config: DictConfig) -> bool:
    """Unless they are placed elsewhere, or the trainer is the one that has none."""
    placed = OmegaConf.select(config, "algorithm.leaf.trace_dir")
    return config.algorithm.adv_estimator == "leaf" and placed is None and bool(config.trainer.use_v1)


def loggers(config: DictConfig) -> list[str]:
    """The run's own loggers, and those that the configuration asks for beside them.

    Raises:
        ValueError: ``trainer.logger`` is neither a name nor a list of names.
    """
    asked = config.trainer.logger
    if isinstance(asked, str):
        asked = [asked]
    names = list(asked) if OmegaConf.is_list(asked) or isinstance(asked, list) else None
    if asked is None:
        names = []
    if names is None or not all(isinstance(name, str) for name in names):
        raise ValueError(f"trainer.logger={asked}: must be the name of a logger, or a list of names")
    return list(dict.fromkeys([*OWN_LOGGERS, *names]))
