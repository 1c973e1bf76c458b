"""Command ``verl-leaf tree``: write the traces of a run as one HTML file."""

from pathlib import Path

from verl_leaf.common.console import Console


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("run", type=Path, help="folder of a run, or of traces")
    add("--out", type=Path, help="HTML file (default: tree.html in the folder)")
    add("--audio", type=Path, help="folder of further clips to include (default: only those in RUN)")
    add("--steps", type=int, nargs="+", help="steps to show (default: a dozen, evenly spaced)")


def main(options) -> int:
    """Write the page."""
    from verl_leaf.show.tree_page.build import write_tree

    write_tree(options.run, options.out or options.run / "tree.html", options.steps, Console(), options.audio)
    return 0
