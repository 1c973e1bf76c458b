"""``verl-leaf merge``: a model with the LoRA adapter of its own merged into its weights."""

from pathlib import Path

from verl_leaf.common.console import Console
from verl_leaf.common.files import whole_folder


def add_arguments(parser) -> None:
    """The command's arguments."""
    parser.add_argument("model", help="model folder or hub name")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")


def main(options) -> int:
    """Merge, and print the folder."""
    from verl_leaf.runs.checkpoints.merge import merge

    with whole_folder(options.out) as folder:
        merge(options.model, None, folder, Console(stderr=True))
    print(options.out)
    return 0
