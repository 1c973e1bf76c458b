"""``verl-leaf export``: what a run has trained, as an adapter or as a whole model."""

import json
import shutil
from pathlib import Path

from rich.console import Console

from verl_leaf.common.files import whole_folder


def add_arguments(parser) -> None:
    """The command's arguments."""
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--merged", action="store_true", help="write the whole model")


def main(options) -> int:
    """Export, and print the folder."""
    export_run(options.run, options.out, options.merged, Console(stderr=True))
    print(options.out)
    return 0


def export_run(run: Path, destination: Path, merged: bool, console: Console) -> None:
    """Write the adapter of a run, or its model with the adapter merged.

    Args:
        run: folder of a run, finished or with a checkpoint.
        destination: folder to write; it appears complete or not at all.
        merged: write the model.
        console: for the progress.

    Raises:
        ValueError: there is no adapter, or the destination exists.
    """
    from verl_leaf.runs.checkpoints.common import check_new
    from verl_leaf.runs.checkpoints.merge import merge

    adapter = _adapter_of(run)
    if merged:
        base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
        merge(base, adapter, destination, console)
        return
    check_new(destination)
    with whole_folder(destination) as scratch:
        shutil.copytree(adapter, scratch, dirs_exist_ok=True)


def _adapter_of(run: Path) -> Path:
    """The adapter of a finished run, or of the last checkpoint of another."""
    checkpoints = run.glob("**/checkpoints/global_step_*/adapter")  # of the run, or of its epochs
    newest = sorted(checkpoints, key=lambda path: path.stat().st_mtime, reverse=True)
    found = [path for path in (run / "adapter", *newest) if (path / "adapter_config.json").exists()]
    if not found:
        raise ValueError(
            f"{run}: holds no adapter: give the folder of a run of `verl-leaf train` that has a checkpoint"
        )
    return found[0]
