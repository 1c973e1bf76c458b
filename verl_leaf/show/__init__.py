"""What people look at after, or during, a run: trees of a step, forks over training, learning curves."""

from pathlib import Path

from verl_leaf.common.console import Console


def say_skipped(title: str, sentences: list[str], console: Console) -> None:
    """Say what a page or figure does not show, one line per sentence."""
    for sentence in sentences:
        console.print(f"{title}: {sentence}")


def add_figure_arguments(parser, name: str, count: str) -> None:
    """The arguments of a figure of runs."""
    parser.add_argument("runs", type=Path, nargs=count, help="folders of runs, finished or not")
    parser.add_argument(
        "--out", type=Path, help=f"path less .png, .svg, .csv (default: {name}, in the folder if there is one)"
    )


def default_out(runs: list[Path], name: str) -> Path:
    """Beside the run if there is one, in the working directory for several."""
    return runs[0] / name if len(runs) == 1 else Path(name)
