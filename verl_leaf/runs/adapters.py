"""Adapters and whole models that a run has saved."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from verl_leaf.runs.folder import RunFolder

STEP_FOLDER = re.compile(r"global_step_(0|[1-9][0-9]*)")  # verl's names
STEP_OF_RUN = re.compile(r"(.+)@(0|[1-9][0-9]*)")
HUB = re.compile(r"[\w.-]+/[\w.-]+")  # a model or data set on the hub
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM has kernels
ADAPTER_CONFIG = "adapter_config.json"
LORA_META = "lora_train_meta.json"  # verl writes it into the actor's checkpoint if LoRA is trained


@dataclass(frozen=True)
class SavedStep:
    """An adapter or, if all weights are trained, a model that a run saved at a step."""

    run: RunFolder  # folder of the run, or of its epoch
    step: int | None  # training step after which it was saved, or None if unknown
    path: Path  # folder of the adapter or model. It may be missing if `actor` is complete
    is_model: bool = False  # True if it is a whole model

    @property
    def name(self) -> str:
        """Text by which ``export`` and ``evaluate`` accept it."""
        return str(self.run.path) if self.step is None else f"{self.run.path}@{self.step}"

    @property
    def actor(self) -> Path:
        """The actor checkpoint of verl that it is made from."""
        return self.path.parent / "actor"

    @property
    def is_written(self) -> bool:
        """True if its folder is complete."""
        return (self.path / "config.json").is_file() if self.is_model else is_adapter(self.path)

    def described(self) -> str:
        """Return one line with the step, the folder, and later steps that remain from an earlier training."""
        step = "of an unknown step" if self.step is None else f"of step {self.step}"
        line = f"The {'model' if self.is_model else 'adapter'} {step} of {self.run.path}: {self.path}"
        if left := [saved.name for saved in saved_steps(self.run) if saved.is_left_over and saved != self]:
            line += f" (not used, because they are from an earlier training in this folder: {', '.join(left)})"
        return line

    @property
    def is_left_over(self) -> bool:
        """True if it remains from an earlier training: verl's last recorded checkpoint is of a smaller step."""
        recorded = self.run.last_checkpoint()
        return recorded is not None and self.step is not None and recorded < self.step


def saved_steps(run: RunFolder) -> list[SavedStep]:
    """Return everything that a run has saved, ordered by epoch and step.

    A step is included if its adapter or model is complete, or verl's actor checkpoint is. The run's ``adapter/`` is
    included if no checkpoint contains the adapter of its step, which is read from ``summary.json``.

    Raises:
        ValueError: ``summary.json`` cannot be read.
    """
    if saved := [saved for epoch in run.epochs() for saved in saved_steps(epoch)]:
        return saved
    numbers = (STEP_FOLDER.fullmatch(folder.name) for folder in run.checkpoints.glob("global_step_*"))
    steps = sorted(int(number[1]) for number in numbers if number)
    saved = [step for step in (_saved_at(run, number) for number in steps) if step]
    last = run.read_summary().get("adapter_step")
    last = last if type(last) is int else None
    known = [step.step for step in saved]
    if is_adapter(run.adapter) and (last not in (None, *known) or not known):
        saved.append(SavedStep(run, last, run.adapter))
        saved.sort(key=lambda step: step.step or 0)
    return saved


def _saved_at(run: RunFolder, step: int) -> SavedStep | None:
    adapter = SavedStep(run, step, run.adapter_of(step))
    model = SavedStep(run, step, adapter.path.with_name("model"), is_model=True)
    if weight_files(adapter.actor):
        return adapter if (adapter.actor / LORA_META).exists() else model
    return next((saved for saved in (adapter, model) if saved.is_written), None)


def weight_files(actor: Path) -> list[Path]:
    """Return the weight files of an FSDP checkpoint, one per rank, or none if one is missing."""
    try:
        ranks = json.loads((actor / "fsdp_config.json").read_bytes())["world_size"]
        files = [actor / f"model_world_size_{ranks}_rank_{rank}.pt" for rank in range(ranks)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return files if all(file.is_file() for file in files) else []


def run_adapters(run: RunFolder) -> list[SavedStep]:
    """Return the complete adapters of a run, ordered by epoch and step."""
    return [saved for saved in saved_steps(run) if not saved.is_model and saved.is_written]


def newest(saved: list[SavedStep]) -> SavedStep | None:
    """Return the last of some saved steps that does not remain from an earlier training."""
    return next((step for step in reversed(saved) if not step.is_left_over), None)


def run_of(text: str) -> RunFolder:
    """Return the run of ``RUN`` or ``RUN@step``; an existing folder is a run, whatever its name."""
    named = STEP_OF_RUN.fullmatch(text)
    return RunFolder(Path(named[1] if named and not Path(text).expanduser().exists() else text).expanduser())


def find_saved(text: str) -> SavedStep:
    """Return the saved step that ``RUN@step`` names, or the newest one for ``RUN``.

    Raises:
        ValueError: the run has saved nothing, or nothing at that step. The message lists the saved steps.
    """
    saved = saved_steps(run_of(text))
    if run_of(text) != RunFolder(Path(text).expanduser()):
        step = int(text.rpartition("@")[2])
        wanted = [saved_step for saved_step in saved if saved_step.step == step]
        if len(wanted) != 1:
            trouble = "several epochs with weights" if wanted else "no weights"
            names = ", ".join(saved_step.name for saved_step in wanted or saved)
            there = f"Choose one of {names}" if names else "It has saved none"
            raise ValueError(f"{text}: the run has {trouble} for step {step}. {there}")
        return wanted[0]
    last = newest(saved)
    if last is None:
        raise ValueError(
            f"{text} contains no adapter, model or checkpoint. Give the folder of a run of `verl-leaf train`"
        )
    return last


def is_adapter(folder: Path) -> bool:
    """Return whether a folder contains an adapter's configuration and weights."""
    return all((folder / name).is_file() for name in (ADAPTER_CONFIG, "adapter_model.safetensors"))


def base_model(adapter: Path) -> str:
    """Return the folder or hub name of an adapter's base model, as in its configuration.

    Raises:
        ValueError: the configuration names none.
    """
    file = adapter / ADAPTER_CONFIG
    try:
        base = json.loads(file.read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} names no model ({error!r}). Give it with --base") from error
    if not isinstance(base, str) or not base:
        raise ValueError(f"{file} names no model (base_model_name_or_path is {base!r}). Give it with --base")
    return base


def absolute_model(model: str) -> str:
    """Return the absolute path of a model folder; return a hub name or remote path unchanged."""
    folder = os.path.expanduser(model)
    return os.path.abspath(folder) if os.path.isdir(folder) else model


def lora_rank(adapter: Path) -> int:
    """Return the rank of an adapter; raise ValueError if the configuration contains no valid rank."""
    file = adapter / ADAPTER_CONFIG
    try:
        rank = json.loads(file.read_bytes())["r"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} names no rank ({error!r})") from error
    if type(rank) is not int or rank < 1:
        raise ValueError(f"{file}: r is {rank!r:.80}. It must be 1 or a larger number")
    return rank


def max_lora_rank(rank: int) -> int:
    """Return vLLM's ``max_lora_rank`` for adapters of this rank."""
    return min((known for known in LORA_RANKS if known >= rank), default=rank)
