"""``verl-leaf export``: what a run has trained, as an adapter or as a whole model."""

import shutil
from pathlib import Path

from verl_leaf.common.console import Console
from verl_leaf.common.files import whole_folder


def add_arguments(parser) -> None:
    """The command's arguments."""
    parser.add_argument("run", help="folder of a run, or RUN@step")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--merged", action="store_true", help="write the whole model")


def main(options) -> int:
    """Export, and print the folder."""
    export_run(options.run, options.out, options.merged, Console(stderr=True))
    print(options.out)
    return 0


def export_run(run: str, destination: Path, merged: bool, console: Console) -> None:
    """Write the adapter of a run, or its model with the adapter merged.

    Args:
        run: folder of a run, finished or with a checkpoint, or ``RUN@step``.
        destination: folder to write; it appears complete or not at all.
        merged: write the model.
        console: for the progress, and for which adapter it is.

    Raises:
        ValueError: there is no such adapter, or the destination exists.
    """
    from verl_leaf.runs.adapters import base_model, find_adapter
    from verl_leaf.runs.checkpoints.common import check_new
    from verl_leaf.runs.checkpoints.merge import merge

    adapter = find_adapter(run)
    if adapter is None:
        raise ValueError(
            f"{run}: holds no adapter: give the folder of a run of `verl-leaf train` that has a checkpoint"
        )
    console.print(adapter.described(), soft_wrap=True, markup=False, highlight=False)
    if merged:
        merge(base_model(adapter.path), adapter.path, destination, console)
        return
    check_new(destination)
    with whole_folder(destination) as scratch:
        shutil.copytree(adapter.path, scratch, dirs_exist_ok=True)
