"""``verl-leaf merge``: a model with the LoRA adapter of its own merged into its weights."""

from pathlib import Path

from verl_leaf.common.console import Console


def add_arguments(parser) -> None:
    """The command's arguments."""
    parser.add_argument("model", help="model folder or hub name")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")


def main(options) -> int:
    """Merge, and print the folder."""
    from verl_leaf.runs.checkpoints.merge import merge

    merge(options.model, None, options.out, Console(stderr=True))
    print(options.out)
    return 0
