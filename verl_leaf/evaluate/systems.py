"""Systems to evaluate: models, adapters, checkpoints of runs, and files of answers."""

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
    """A source of answers."""

    name: str
    model: Path | None = None  # folder of the whole model, or of the adapter's base model
    adapter: Path | None = None  # folder of a LoRA adapter in PEFT's format
    answers: Path | None = None  # file of answers; there is no model then


def parse_systems(texts: list[str], base: str | None) -> list[System]:
    """Return the systems of texts ``[name=]X``, as in :func:`parse_system`.

    Raises:
        ValueError: a system cannot be found, or two have the same name.
    """
    systems = [parse_system(text, base) for text in texts]
    names = [system.name for system in systems]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"two systems are called {twice[0]}. Give them names, as in before={texts[names.index(twice[0])]}"
        )
    return systems


def parse_system(text: str, base: str | None = None) -> System:
    """Return the system of ``[name=]X``, where X is a hub name, a folder of a model, adapter or run, ``RUN@step``, or a file.

    The base model of an adapter is ``base``, or the one in its configuration.

    Raises:
        ValueError: X is none of these, the model is not supported, or the adapter's base model is missing.
    """
    name, equals, what = text.partition("=")
    if not equals or Path(text).exists() or not NAME.fullmatch(name):
        name, what = re.sub(r"[^\w.@+-]", "_", Path(text).name.removesuffix(".jsonl")), text
    if not name:
        raise ValueError(f"{text!r} names no system")
    if what.endswith(".jsonl"):
        if not Path(what).is_file():
            raise ValueError(f"{what}: there is no such file of answers")
        return System(name, answers=Path(what))
    folder = _folder(what, base)
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        return System(name, model=_check(base or _base_of(folder)), adapter=folder)
    return System(name, model=_check(str(folder)))


def _folder(what: str, base: str | None) -> Path:
    path = Path(what).expanduser()
    of_step = STEP_OF_RUN.fullmatch(what)
    if not path.exists() and not (of_step and Path(of_step[1]).expanduser().is_dir()):
        if not HUB.fullmatch(what):
            raise ValueError(f"{what} is neither a folder nor a hub name")
        return local_folder(what)
    if any((path / name).exists() for name in ("config.json", "adapter_config.json")):
        return path
    saved = find_saved(what)
    Console(stderr=True).print(saved.described())
    return write_missing(saved, base)


def _base_of(adapter: Path) -> str:
    base = base_model(adapter)
    if not (Path(base).expanduser().is_dir() or HUB.fullmatch(base)):
        raise ValueError(f"{adapter}: its base model {base!r} does not exist. Give it with --base")
    return base


def _check(model: str) -> Path:
    """Return the folder of a whole model after checking that vLLM can serve it."""
    folder = local_folder(model)
    for problem in model_problems(str(folder), model_config(str(folder))):
        if problem.what != "weights":  # quantised models can be evaluated, though not trained
            raise ValueError(f"{model}: {problem.what}: {problem.found}: {problem.remedy}")
    return folder
