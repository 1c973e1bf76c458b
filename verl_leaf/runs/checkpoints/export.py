"""Command ``verl-leaf export``: write what a run has trained, as an adapter or as a whole model."""

import json
import shutil
from pathlib import Path

from verl_leaf.common.console import Console
from verl_leaf.common.files import whole_folder
from verl_leaf.runs.adapters import ADAPTER_CONFIG, SavedStep, absolute_model, base_model, find_saved


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("run", help="folder of a run, or RUN@step")
    add("--out", type=Path, required=True, help="folder to write")
    add("--merged", action="store_true", help="write the whole model instead of the adapter")
    add("--base", help="folder or hub name of the base model, if it has moved")


def main(options) -> int:
    """Export a run, and print the folder."""
    export_run(options.run, options.out, options.merged, options.base)
    print(options.out)
    return 0


def export_run(run: str, destination: Path, merged: bool, base: str | None) -> None:
    """Write a run's adapter, or its whole model with the trained weights, and a model card.

    Args:
        run: folder of a run that has saved something, or ``RUN@step``.
        merged: True to write the whole model. If a run trains all weights, the whole model is written anyway.
        base: folder or hub name of the base model, or None for the one that the run names.

    Raises:
        ValueError: the run has not saved such a step.
        FileExistsError: the destination exists.
    """
    saved = find_saved(run)
    Console(stderr=True).print(saved.described())
    from verl_leaf.runs.checkpoints.card import model_card
    from verl_leaf.runs.checkpoints.merge import merge, write_trained

    with whole_folder(destination) as folder:
        if saved.is_model:
            base = base or _setting(saved, "path")
            if saved.is_written:
                shutil.copytree(saved.path, folder, dirs_exist_ok=True)
            else:
                write_trained(base, saved.actor, folder)
        else:
            adapter = write_missing(saved, base)
            base = base or base_model(adapter)
            if merged:
                merge(base, adapter, folder)
            else:
                shutil.copytree(adapter, folder, dirs_exist_ok=True)
                file = folder / ADAPTER_CONFIG
                config = {**json.loads(file.read_bytes()), "base_model_name_or_path": absolute_model(base)}
                file.write_text(json.dumps(config, indent=2))
        (folder / "README.md").write_text(model_card(saved, run, absolute_model(base), folder), encoding="utf-8")


def write_missing(saved: SavedStep, base: str | None) -> Path:
    """Return the folder of a saved step, written from verl's checkpoint if it does not exist.

    The base model is ``base``, or the one in the run's configuration.

    Raises:
        ValueError: the checkpoint or the run's configuration cannot be read.
    """
    if not saved.is_written:
        from verl_leaf.runs.checkpoints.adapter import export_adapter
        from verl_leaf.runs.checkpoints.merge import write_trained

        base = base or _setting(saved, "path")
        if saved.is_model:
            with whole_folder(saved.path, replace=True) as scratch:
                write_trained(base, saved.actor, scratch)
        else:
            targets, excluded = _setting(saved, "target_modules"), _setting(saved, "exclude_modules")
            export_adapter(saved.actor, saved.path, base_model=base, target_modules=targets, exclude_modules=excluded)
    return saved.path


def _setting(saved: SavedStep, name: str):
    config = saved.run.read_config()
    if config is None:
        raise ValueError(
            f"{saved.run.config} is missing, so the base model of {saved.name} is unknown. Give it with --base"
        )
    return config.actor_rollout_ref.model[name]
