"""The folder of a run: what is in it, and where.

A run of several epochs has such a folder for each, ``epoch_1``, ``epoch_2``, ..., and of its own only what is made of them:
the command, the summary and the adapter.
"""

import fcntl
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_leaf import config
from verl_leaf.common.files import check_inside, read_json, write_file
from verl_leaf.common.names import STOP

LAST_CHECKPOINT = "latest_checkpointed_iteration.txt"  # verl/utils/checkpoint/checkpoint_manager.py


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what; nothing needs to be there yet."""

    path: Path

    @property
    def command(self) -> Path:
        """What ``verl-leaf train`` was told, as JSON."""
        return self.path / "command.json"

    @property
    def made_of(self) -> Path:
        """What the steps of the run depend on, as JSON: an entry for its start, and one for each later start that differs."""
        return self.path / "made_of.json"

    @property
    def log(self) -> Path:
        """Everything that verl, Ray and vLLM print."""
        return self.path / "train.log"

    @property
    def config(self) -> Path:
        """verl's configuration as Hydra put it together."""
        return self.path / "hydra" / ".hydra" / "config.yaml"

    @property
    def metrics(self) -> Path:
        """A JSON line per step, in a file per start of the run."""
        return self.path / "metrics"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def traces(self) -> Path:
        """LEAF's trees."""
        return self.path / "traces"

    @property
    def tree_page(self) -> Path:
        return self.path / "tree.html"

    @property
    def validation(self) -> Path:
        """Every answer of every validation, in a file per step."""
        return self.path / "validation"

    @property
    def validation_rows(self) -> Path:
        """The rows to validate on, where those are not all that were given."""
        return self.path / "validation.parquet"

    @property
    def swapped_rows(self) -> Path:
        """Rows to validate on that have other rows' audio."""
        return self.path / "validation_swapped.parquet"

    @property
    def checkpoints(self) -> Path:
        """verl's checkpoints, each with its adapter."""
        return self.path / "checkpoints"

    @property
    def stop(self) -> Path:
        """The file by which the run is told to save a checkpoint and end."""
        return self.checkpoints / STOP

    @property
    def summary(self) -> Path:
        """What the run amounts to, as JSON; there once it has ended."""
        return self.path / "summary.json"

    @property
    def adapter(self) -> Path:
        """The last adapter, in PEFT's format."""
        return self.path / "adapter"

    @property
    def finished(self) -> bool:
        return self.summary.exists()

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint that training goes on from."""
        return (self.checkpoints / LAST_CHECKPOINT).exists()

    @property
    def has_trained(self) -> bool:
        """Whether a step has been logged."""
        return any(file.stat().st_size for file in self.metrics.glob("*.jsonl"))

    def last_checkpoint(self) -> int | None:
        """The step of the checkpoint that verl saved last, as verl recorded it; None if it recorded none."""
        try:
            return int((self.checkpoints / LAST_CHECKPOINT).read_text())
        except (OSError, ValueError):
            return None

    def adapter_of(self, step: int) -> Path:
        """The adapter that was saved at a step."""
        return self.checkpoints / f"global_step_{step}" / "adapter"

    def answers_of(self, step: int) -> Path:
        """The answers of the validation at a step."""
        return self.validation / f"{step}.jsonl"

    def validated_steps(self) -> list[int]:
        """The steps whose validation is here, in order."""
        return sorted(int(file.stem) for file in self.validation.glob("*.jsonl") if file.stem.isdecimal())

    def beside(self) -> list["RunFolder"]:
        """Return the numbered folders of runs in the same folder, in order."""
        numbered = [path for path in self.path.parent.glob("*") if re.fullmatch(r"[0-9]{3,}", path.name)]
        return [RunFolder(path) for path in sorted(numbered, key=lambda path: int(path.name))]

    def epoch(self, number: int) -> "RunFolder":
        return RunFolder(self.path / f"epoch_{number}")

    def epochs(self) -> list["RunFolder"]:
        """The epochs that have begun, in order; none where the run has no parts."""
        numbers = (re.fullmatch(r"epoch_(\d+)", folder.name) for folder in self.path.glob("epoch_*"))
        return [self.epoch(number) for number in sorted(int(found[1]) for found in numbers if found)]

    def read_config(self) -> DictConfig | None:
        """verl's configuration, its interpolations unresolved; None if there is none yet.

        Raises:
            ValueError: the file is no configuration.
        """
        if not self.config.exists():
            return None
        check_inside(self.config, self.path)
        config.register()
        try:
            # An alias can stand for thousands of others; Hydra writes none.
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(self.config.read_text(encoding="utf-8"))):
                raise ValueError(f"{self.config}: cannot be read: it has YAML aliases")
            loaded = OmegaConf.load(self.config)
        except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{self.config}: cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(loaded, DictConfig):
            raise ValueError(f"{self.config}: is no configuration of verl's")
        return loaded

    def read_summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds; nothing before the run has ended.

        Raises:
            ValueError: the file is no summary.
        """
        return read_json(self.summary, dict)

    def read_command(self) -> dict[str, Any]:
        """Return what :meth:`write_command` wrote; empty if nothing."""
        return read_json(self.command, dict)

    def write_command(self, command: dict[str, Any]) -> None:
        write_file(self.command, json.dumps(command, indent=1, ensure_ascii=False))

    def read_made_of(self) -> list[dict[str, Any]]:
        """Return what :meth:`write_made_of` wrote; empty if nothing."""
        return read_json(self.made_of, list)

    def write_made_of(self, records: list[dict[str, Any]]) -> None:
        write_file(self.made_of, json.dumps(records, indent=1, ensure_ascii=False))

    def lock(self) -> IO[str]:
        """A file that stays locked while it is open here or in a child, so that two runs never share a folder.

        Raises:
            ValueError: another process holds it, nothing can be written here, or the file system has no locks.
        """
        try:
            lock = open(self.path / "lock", "w")
        except OSError as error:
            raise ValueError(
                f"{self.path}: nothing can be written here ({error.strerror}): choose another folder"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ValueError(
                f"{self.path}: a run is at work here; wait for it, end it, or choose another folder"
            ) from None
        except OSError as error:
            lock.close()
            raise ValueError(
                f"{self.path}: its file system has no file locks ({error.strerror}): choose a folder on another one"
            ) from error
        return lock


def choose_folder(runs: Path, command: dict[str, Any], make: bool = True) -> RunFolder:
    """Return the last unfinished run below ``runs`` that was told the same, or a new numbered folder.

    Args:
        runs: folder of runs.
        command: what the run is told.
        make: make a new folder. No other run can get it then, even one that starts at the same moment.
    """
    folders = RunFolder(runs / "next").beside()
    for folder in reversed(folders):
        if folder.read_command() == command and not folder.finished:
            return folder
    number = int(folders[-1].path.name) + 1 if folders else 1
    while True:
        folder = RunFolder(runs / f"{number:03d}")
        try:
            if make:
                folder.path.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
