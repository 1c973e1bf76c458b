"""The layout of a run's folder.

A run of several epochs has one such folder per epoch, ``epoch_1``, ``epoch_2`` and so on. Its own folder then contains only
the command, the summary and the adapter.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_leaf import config
from verl_leaf.common.files import check_inside, read_json, write_file
from verl_leaf.common.names import STOP

LAST_CHECKPOINT = "latest_checkpointed_iteration.txt"  # verl/utils/checkpoint/checkpoint_manager.py


class _Entry:
    """A path in a run's folder."""

    def __init__(self, *parts: str):
        self._parts = parts

    def __get__(self, run: "RunFolder", _class: type) -> Path:
        return run.path.joinpath(*self._parts)


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run's folder; none of them needs to exist."""

    path: Path

    command = _Entry("command.json")  # the options of `verl-leaf train`
    # The settings and files that the steps depend on: one entry for the start, and one per later change.
    made_of = _Entry("made_of.json")
    log = _Entry("train.log")  # the output of verl, Ray and vLLM
    config = _Entry("hydra", ".hydra", "config.yaml")  # verl's configuration as Hydra composed it
    metrics = _Entry("metrics")  # one JSON line per step, in one file per start of the run
    tensorboard = _Entry("tensorboard")
    traces = _Entry("traces")  # LEAF's trees
    tree_page = _Entry("tree.html")
    validation = _Entry("validation")  # the answers of every validation, in one file per step
    validation_rows = _Entry("validation.parquet")  # the validation rows, if they are only some of the given ones
    swapped_rows = _Entry("validation_swapped.parquet")  # the validation rows with other rows' audio
    checkpoints = _Entry("checkpoints")  # verl's checkpoints, each with its adapter
    stop = _Entry("checkpoints", STOP)  # tells the run to save a checkpoint and end
    summary = _Entry("summary.json")  # the results of the run; written when it ends
    adapter = _Entry("adapter")  # the last adapter, in PEFT's format

    @property
    def finished(self) -> bool:
        return self.summary.exists()

    @property
    def resumable(self) -> bool:
        """True if there is a checkpoint to continue from."""
        return (self.checkpoints / LAST_CHECKPOINT).exists()

    @property
    def has_trained(self) -> bool:
        """True if a step has been logged."""
        return any(file.stat().st_size for file in self.metrics.glob("*.jsonl"))

    def last_checkpoint(self) -> int | None:
        """Return the step of the last checkpoint that verl recorded, or None."""
        try:
            return int((self.checkpoints / LAST_CHECKPOINT).read_text())
        except (OSError, ValueError):
            return None

    def adapter_of(self, step: int) -> Path:
        """Return the folder of the adapter of a step."""
        return self.checkpoints / f"global_step_{step}" / "adapter"

    def answers_of(self, step: int) -> Path:
        """Return the file with the answers of the validation at a step."""
        return self.validation / f"{step}.jsonl"

    def validated_steps(self) -> list[int]:
        """Return the steps whose validation is in the folder, in order."""
        return sorted(int(file.stem) for file in self.validation.glob("*.jsonl") if file.stem.isdecimal())

    def beside(self) -> list["RunFolder"]:
        """Return the numbered run folders in the same parent folder, in order."""
        numbered = [path for path in self.path.parent.glob("*") if re.fullmatch(r"[0-9]{3,}", path.name)]
        return [RunFolder(path) for path in sorted(numbered, key=lambda path: int(path.name))]

    def epoch(self, number: int) -> "RunFolder":
        return RunFolder(self.path / f"epoch_{number}")

    def epochs(self) -> list["RunFolder"]:
        """Return the epochs that have begun, in order; none if the run is not split into epochs."""
        numbers = (re.fullmatch(r"epoch_(\d+)", folder.name) for folder in self.path.glob("epoch_*"))
        return [self.epoch(number) for number in sorted(int(match[1]) for match in numbers if match)]

    def read_config(self) -> DictConfig | None:
        """Return verl's configuration with unresolved interpolations, or None if there is none yet.

        Raises:
            ValueError: the file is not a configuration.
        """
        if not self.config.exists():
            return None
        check_inside(self.config, self.path)
        config.register()
        try:
            # A few aliases can expand to a huge file; Hydra writes none.
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(self.config.read_text(encoding="utf-8"))):
                raise ValueError(f"{self.config} cannot be read: it contains YAML aliases")
            loaded = OmegaConf.load(self.config)
        except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{self.config} cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(loaded, DictConfig):
            raise ValueError(f"{self.config} is not a configuration of verl")
        return loaded

    def read_summary(self) -> dict[str, Any]:
        """Return the content of ``summary.json``, empty before the run has ended.

        Raises:
            ValueError: the file is not a summary.
        """
        return read_json(self.summary, dict)

    def read_command(self) -> dict[str, Any]:
        """Return the content that :meth:`write_command` wrote, or an empty dictionary."""
        return read_json(self.command, dict)

    def write_command(self, command: dict[str, Any]) -> None:
        write_file(self.command, json.dumps(command, indent=1, ensure_ascii=False))

    def read_made_of(self) -> list[dict[str, Any]]:
        """Return the content that :meth:`write_made_of` wrote, or an empty list."""
        return read_json(self.made_of, list)

    def write_made_of(self, records: list[dict[str, Any]]) -> None:
        write_file(self.made_of, json.dumps(records, indent=1, ensure_ascii=False))


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested settings by full name."""
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return leaves


def choose_folder(runs: Path, command: dict[str, Any], make: bool = True) -> RunFolder:
    """Return the last unfinished run below ``runs`` with the same command, or a new numbered folder.

    With ``make``, the new folder is made, so that no run that starts at the same moment can get it.
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
