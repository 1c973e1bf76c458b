"""What a run has saved: its adapters or whole models, which is the newest, and which model one belongs to."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from verl_leaf.runs.folder import RunFolder

STEP_FOLDER = re.compile(r"global_step_(0|[1-9][0-9]*)")  # as verl names them
STEP_OF_RUN = re.compile(r"(.+)@(0|[1-9][0-9]*)")
HUB = re.compile(r"[\w.-]+/[\w.-]+")  # the name of a model or data set on the hub
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for
ADAPTER_CONFIG = "adapter_config.json"
LORA_META = "lora_train_meta.json"  # verl writes it into the actor's checkpoint if LoRA is trained


@dataclass(frozen=True)
class SavedStep:
    """What a run has saved at a step: an adapter or, if all weights are trained, a model.

    Attributes:
        run: the folder of the run, or of its epoch.
        step: the training step after which it was saved; None if nothing in the run says so.
        path: its folder, in PEFT's format or as a whole model. It may be missing if :attr:`actor` is complete.
        is_model: whether it is a whole model.
    """

    run: RunFolder
    step: int | None
    path: Path
    is_model: bool = False

    @property
    def name(self) -> str:
        """What ``export`` and ``evaluate`` accept for it."""
        return str(self.run.path) if self.step is None else f"{self.run.path}@{self.step}"

    @property
    def actor(self) -> Path:
        """The checkpoint of verl's actor that it is made of."""
        return self.path.parent / "actor"

    @property
    def is_written(self) -> bool:
        """Whether its folder is complete."""
        return (self.path / "config.json").is_file() if self.is_model else is_adapter(self.path)

    def described(self) -> str:
        """Return one line: the step, the folder, and the later steps that are there and are not its training's."""
        step = "of an unknown step" if self.step is None else f"of step {self.step}"
        left = [saved.name for saved in saved_steps(self.run) if saved.is_left_over and saved != self]
        others = f" (of an earlier training in this folder, not taken: {', '.join(left)})" if left else ""
        return f"The {'model' if self.is_model else 'adapter'} {step} of {self.run.path}: {self.path}{others}"

    @property
    def is_left_over(self) -> bool:
        """Whether it is of an earlier training in the folder: verl has recorded a last checkpoint before its step."""
        recorded = self.run.last_checkpoint()
        return recorded is not None and self.step is not None and recorded < self.step


def saved_steps(run: RunFolder) -> list[SavedStep]:
    """Return everything that a run has saved, in the order of training: by epoch, then by step.

    A step counts if its adapter is complete, or the checkpoint of verl's actor that an adapter or model is made of. The run's
    ``adapter/`` is listed if no checkpoint holds the adapter of its step; its step is what ``summary.json`` says.

    Raises:
        ValueError: ``summary.json`` cannot be read.
    """
    saved = [each for epoch in run.epochs() for each in saved_steps(epoch)]
    if not saved:
        numbers = (STEP_FOLDER.fullmatch(folder.name) for folder in run.checkpoints.glob("global_step_*"))
        steps = sorted(int(number[1]) for number in numbers if number)
        saved = [found for step in steps if (found := _saved_at(run, step))]
        step = run.read_summary().get("adapter_step")
        step = step if type(step) is int else None
        known = [each.step for each in saved]
        if is_adapter(run.adapter) and (step not in (None, *known) or not known):
            saved.append(SavedStep(run, step, run.adapter))
            saved.sort(key=lambda each: each.step or 0)
    return saved


def _saved_at(run: RunFolder, step: int) -> SavedStep | None:
    adapter = SavedStep(run, step, run.adapter_of(step))
    model = SavedStep(run, step, adapter.path.with_name("model"), is_model=True)
    if weight_files(adapter.actor):
        return adapter if (adapter.actor / LORA_META).exists() else model
    return next((saved for saved in (adapter, model) if saved.is_written), None)


def weight_files(actor: Path) -> list[Path]:
    """Return the files with the weights of an FSDP checkpoint, one per rank; none if one is missing."""
    try:
        ranks = json.loads((actor / "fsdp_config.json").read_bytes())["world_size"]
        files = [actor / f"model_world_size_{ranks}_rank_{rank}.pt" for rank in range(ranks)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return files if all(file.is_file() for file in files) else []


def run_adapters(run: RunFolder) -> list[SavedStep]:
    """Return the complete adapters of a run in the order of training."""
    return [saved for saved in saved_steps(run) if not saved.is_model and saved.is_written]


def newest(saved: list[SavedStep]) -> SavedStep | None:
    """Return the last of some steps in the order of training that is not of an earlier training in the folder."""
    return next((each for each in reversed(saved) if not each.is_left_over), None)


def run_of(text: str) -> RunFolder:
    """Return the run of ``RUN`` or ``RUN@step``; a folder that is there is a run, whatever its name."""
    named = STEP_OF_RUN.fullmatch(text)
    return RunFolder(Path(named[1] if named and not Path(text).expanduser().exists() else text).expanduser())


def find_saved(text: str) -> SavedStep:
    """Return what ``RUN`` or ``RUN@step`` names: the newest of what the run has saved, or that of the step.

    Raises:
        ValueError: the run has saved nothing, or nothing at that step; the message lists what there is.
    """
    saved = saved_steps(run_of(text))
    if run_of(text) != RunFolder(Path(text).expanduser()):
        step = int(text.rpartition("@")[2])
        wanted = [each for each in saved if each.step == step]
        if len(wanted) != 1:
            trouble = "several epochs with weights" if wanted else "no weights"
            names = ", ".join(each.name for each in wanted or saved)
            there = f"there are {names}" if names else "it has saved none"
            raise ValueError(f"{text}: the run has {trouble} of step {step}; {there}")
        return wanted[0]
    last = newest(saved)
    if last is None:
        raise ValueError(f"{text}: holds no adapter, no model and no checkpoint of a run of `verl-leaf train`")
    return last


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter's configuration and its weights."""
    return all((folder / name).is_file() for name in (ADAPTER_CONFIG, "adapter_model.safetensors"))


def base_model(adapter: Path) -> str:
    """Return the folder or hub name of the model that an adapter belongs to, as its configuration has it.

    Raises:
        ValueError: its configuration names none.
    """
    file = adapter / ADAPTER_CONFIG
    try:
        base = json.loads(file.read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: names no model ({error!r}): give it with --base") from error
    if not isinstance(base, str) or not base:
        raise ValueError(f"{file}: names no model (base_model_name_or_path is {base!r}): give it with --base")
    return base


def absolute_model(model: str) -> str:
    """Return the absolute path of a model's folder; a hub name or remote path as it is."""
    folder = os.path.expanduser(model)
    return os.path.abspath(folder) if os.path.isdir(folder) else model


def lora_rank(adapter: Path) -> int:
    """Return the rank of an adapter.

    Raises:
        ValueError: its configuration has none that is possible.
    """
    file = adapter / ADAPTER_CONFIG
    try:
        rank = json.loads(file.read_bytes())["r"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: names no rank ({error!r})") from error
    if type(rank) is not int or rank < 1:
        raise ValueError(f"{file}: r is {rank!r:.80}; it must be a number from 1 on")
    return rank


def max_lora_rank(rank: int) -> int:
    """Return vLLM's ``max_lora_rank`` for adapters of a rank."""
    return min((known for known in LORA_RANKS if known >= rank), default=rank)
