"""Command ``verl-leaf merge``: merge the LoRA adapter in a model folder into the model's weights."""

from pathlib import Path

from verl_leaf.common.files import whole_folder


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", help="model folder or hub name")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")


def main(options) -> int:
    """Merge a model, and print the folder."""
    from verl_leaf.runs.checkpoints.merge import merge

    with whole_folder(options.out) as folder:
        merge(options.model, None, folder)
    print(options.out)
    return 0
