"""The LoRA adapters of a run: which there are, which is the newest, and which model one belongs to."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from verl_leaf.runs.folder import RunFolder

STEP_FOLDER = re.compile(r"global_step_(0|[1-9][0-9]*)")  # as verl names them
STEP_OF_RUN = re.compile(r"(.+)@(0|[1-9][0-9]*)")
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class RunAdapter:
    """An adapter of a run.

    Attributes:
        run: the folder of the run, or of its epoch.
        step: the training step after which it was saved; None if nothing in the run says so.
        path: its folder, in PEFT's format.
    """

    run: RunFolder
    step: int | None
    path: Path

    @property
    def name(self) -> str:
        """What ``export`` and ``evaluate`` accept for it."""
        return str(self.run.path) if self.step is None else f"{self.run.path}@{self.step}"

    def described(self) -> str:
        """Return one line: the step, the folder, and the later steps that are there and are not its training's."""
        step = "of an unknown step" if self.step is None else f"of step {self.step}"
        left = [adapter.name for adapter in run_adapters(self.run) if adapter.is_left_over and adapter != self]
        others = f" (of an earlier training in this folder, not taken: {', '.join(left)})" if left else ""
        return f"The adapter {step} of {self.run.path}: {self.path}{others}"

    @property
    def is_left_over(self) -> bool:
        """Whether it is of an earlier training in the folder: verl has recorded a last checkpoint before its step."""
        recorded = self.run.last_checkpoint()
        return recorded is not None and self.step is not None and recorded < self.step


def run_adapters(run: RunFolder) -> list[RunAdapter]:
    """Return the complete adapters of a run in the order of training: by epoch, then by step.

    An adapter that lacks its weights or its configuration does not count. The run's ``adapter/`` is listed if no checkpoint
    holds the adapter of its step; its step is what ``summary.json`` says.

    Raises:
        ValueError: ``summary.json`` cannot be read.
    """
    adapters = [adapter for epoch in run.epochs() for adapter in run_adapters(epoch)]
    if not adapters:
        numbers = (STEP_FOLDER.fullmatch(folder.name) for folder in run.checkpoints.glob("global_step_*"))
        steps = sorted(int(number[1]) for number in numbers if number)
        adapters = [RunAdapter(run, step, path) for step in steps if is_adapter(path := run.adapter_of(step))]
        step = run.read_summary().get("adapter_step")
        step = step if type(step) is int else None
        known = [adapter.step for adapter in adapters]
        if is_adapter(run.adapter) and (step not in (None, *known) or not known):
            adapters.append(RunAdapter(run, step, run.adapter))
            adapters.sort(key=lambda adapter: adapter.step or 0)
    return adapters


def newest(adapters: list[RunAdapter]) -> RunAdapter | None:
    """Return the last of some adapters in the order of training that is not of an earlier training in the folder."""
    return next((adapter for adapter in reversed(adapters) if not adapter.is_left_over), None)


def find_adapter(text: str) -> RunAdapter | None:
    """Return the adapter that ``RUN`` or ``RUN@step`` names: the newest, or that of the step; None if RUN has none.

    Raises:
        ValueError: the run has adapters, and none of that step; the message lists those that there are.
    """
    named = STEP_OF_RUN.fullmatch(text)
    if named and not Path(text).expanduser().exists():
        adapters = run_adapters(RunFolder(Path(named[1]).expanduser()))
        step = int(named[2])
        wanted = [adapter for adapter in adapters if adapter.step == step]
        if len(wanted) != 1:
            trouble = "several epochs with an adapter" if wanted else "no adapter"
            raise ValueError(f"{text}: the run has {trouble} of step {step}; {there_are(wanted or adapters)}")
        return wanted[0]
    return newest(run_adapters(RunFolder(Path(text).expanduser())))


def there_are(adapters: list[RunAdapter]) -> str:
    """Return the names of adapters for a message."""
    return f"there are {', '.join(adapter.name for adapter in adapters)}" if adapters else "it has kept none"


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter's configuration and its weights."""
    return all((folder / name).is_file() for name in FILES)


def base_model(adapter: Path) -> str:
    """Return the folder or hub name of the model that an adapter belongs to, as its configuration has it.

    Raises:
        ValueError: its configuration names none.
    """
    try:
        base = json.loads((adapter / FILES[0]).read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{adapter / FILES[0]}: names no model ({error!r})") from error
    if not isinstance(base, str) or not base:
        raise ValueError(f"{adapter / FILES[0]}: names no model (base_model_name_or_path is {base!r})")
    return base
