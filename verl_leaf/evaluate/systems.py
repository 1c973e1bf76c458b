"""Systems to evaluate: models, adapters on them, checkpoints of runs, and answers that were made elsewhere."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from verl_leaf.checks.model import model_config, model_problems
from verl_leaf.runs.adapters import STEP_OF_RUN, base_model, find_adapter, is_adapter, run_adapters, there_are
from verl_leaf.runs.checkpoints.merge import local_folder
from verl_leaf.runs.folder import RunFolder

NAME = re.compile(r"[\w.@+-]+")
HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class System:
    """What gives answers.

    Attributes:
        name: in tables, and of its files.
        model: folder of the whole model, or of the base of the adapter.
        adapter: folder of a LoRA adapter in PEFT's format.
        answers: file of answers; then there is no model.
    """

    name: str
    model: Path | None = None
    adapter: Path | None = None
    answers: Path | None = None


def parse_systems(texts: list[str], base: str | None) -> list[System]:
    """``[name=]X`` each, as :func:`parse_system` takes it.

    Raises:
        ValueError: one cannot be found, or two have the same name.
    """
    systems = [parse_system(text, base) for text in texts]
    names = [system.name for system in systems]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"two systems are called {twice[0]}: give them names, as in before={texts[names.index(twice[0])]}"
        )
    return systems


def parse_system(text: str, base: str | None = None) -> System:
    """``[name=]X``, where X is a hub name, a folder of a model, adapter or run, ``RUN@step``, or a file of answers.

    Args:
        text: as the user has it.
        base: model of an adapter, instead of the one in its configuration.

    Raises:
        ValueError: X is nothing of this, the model is not supported, or the adapter's model is not there.
    """
    given, equals, what = text.partition("=")
    if not equals or Path(text).exists() or not NAME.fullmatch(given):
        given, what = "", text
    name = given or re.sub(r"[^\w.@+-]", "_", Path(what).name.removesuffix(".jsonl"))
    if not name:
        raise ValueError(f"{text!r}: names no system")
    if what.endswith(".jsonl"):
        if not Path(what).is_file():
            raise ValueError(f"{what}: no such file of answers")
        return System(name, answers=Path(what))
    folder = _folder(what)
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        return System(name, model=_check(base or _base_of(folder)), adapter=folder)
    return System(name, model=_check(str(folder)))


def _folder(what: str) -> Path:
    """The folder of a model or adapter."""
    path = Path(what).expanduser()
    of_step = STEP_OF_RUN.fullmatch(what)
    if not path.exists() and not (of_step and Path(of_step[1]).expanduser().is_dir()):
        if not HUB.fullmatch(what):
            raise ValueError(f"{what}: no such folder, and no name of a model on the hub")
        return local_folder(what)
    if any((path / name).exists() for name in ("config.json", "adapter_config.json")):
        return path
    adapter, run_folder = find_adapter(what), RunFolder(path)
    if (
        path.exists()
        and not is_adapter(run_folder.adapter)
        and (adapter or run_folder.command.exists() or run_folder.checkpoints.is_dir())
    ):
        kept = there_are(run_adapters(run_folder))
        raise ValueError(f"{what}: the run has not ended, so it has no adapter yet; {kept}")
    if adapter is None:
        raise ValueError(
            f"{what}: is no model (config.json), adapter (adapter_config.json) or run of `verl-leaf train`, and no file of "
            "answers (.jsonl)"
        )
    print(adapter.described(), file=sys.stderr)
    return adapter.path


def _base_of(adapter: Path) -> str:
    try:
        base = base_model(adapter)
    except ValueError as error:
        raise ValueError(f"{error}: give it with --base") from error
    if not (Path(base).expanduser().is_dir() or HUB.fullmatch(base)):
        raise ValueError(f"{adapter}: its model {base!r} is not here: give it with --base")
    return base


def _check(model: str) -> Path:
    """The folder of a whole model, which vLLM can serve."""
    folder = local_folder(model)
    for problem in model_problems(str(folder), model_config(str(folder))):
        if problem.what != "weights":  # that quantised ones cannot be trained is no matter here
            raise ValueError(f"{model}: {problem.what}: {problem.found}: {problem.remedy}")
    return folder
