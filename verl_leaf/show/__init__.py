"""Displays of a run: trees of a step, forks over training, and learning curves."""

from pathlib import Path

from verl_leaf.common.console import Console


def say_skipped(title: str, sentences: list[str], console: Console) -> None:
    """Print what a page or figure does not show, one line per sentence."""
    for sentence in sentences:
        console.print(f"{title}: {sentence}")


def add_figure_arguments(parser, name: str, count: str) -> None:
    """Add the arguments of a figure of runs."""
    parser.add_argument("runs", type=Path, nargs=count, help="folders of runs, finished or not")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"path of the files without .png, .svg, .csv (default: {name}, in the run's folder if there is only one)",
    )


def default_out(runs: list[Path], name: str) -> Path:
    """Return a path in the run's folder, or in the working directory if there are several runs."""
    return runs[0] / name if len(runs) == 1 else Path(name)
