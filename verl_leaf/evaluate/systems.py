"""Systems to evaluate: models, adapters on them, checkpoints of runs, and answers that were made elsewhere."""

import re
from dataclasses import dataclass
from pathlib import Path

from verl_leaf.checks.model import model_config, model_problems
from verl_leaf.common.console import Console
from verl_leaf.runs.adapters import HUB, STEP_OF_RUN, base_model, find_saved
from verl_leaf.runs.checkpoints.export import write_missing
from verl_leaf.runs.checkpoints.merge import local_folder

NAME = re.compile(r"[\w.@+-]+")


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
    folder = _folder(what, base)
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        return System(name, model=_check(base or _base_of(folder)), adapter=folder)
    return System(name, model=_check(str(folder)))


def _folder(what: str, base: str | None) -> Path:
    """Return the folder of a model or adapter."""
    path = Path(what).expanduser()
    of_step = STEP_OF_RUN.fullmatch(what)
    if not path.exists() and not (of_step and Path(of_step[1]).expanduser().is_dir()):
        if not HUB.fullmatch(what):
            raise ValueError(f"{what}: no such folder, and no name of a model on the hub")
        return local_folder(what)
    if any((path / name).exists() for name in ("config.json", "adapter_config.json")):
        return path
    console = Console(stderr=True)
    saved = find_saved(what)
    console.print(saved.described())
    return write_missing(saved, base, console)


def _base_of(adapter: Path) -> str:
    base = base_model(adapter)
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
