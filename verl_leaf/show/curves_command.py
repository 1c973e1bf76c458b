"""Command ``verl-leaf curves``: draw rewards and validation scores of runs."""

from verl_leaf.common.console import Console
from verl_leaf.show import add_figure_arguments, default_out


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add_figure_arguments(parser, "curves", "+")
    parser.add_argument(
        "--over", nargs="+", choices=("steps", "rollouts", "minutes"), default=["steps"], help="x axes (default: steps)"
    )
    parser.add_argument(
        "--score",
        type=float,
        action="append",
        default=[],
        help="show where runs reach this validation score; repeatable",
    )


def main(options) -> int:
    """Write the figure."""
    from verl_leaf.show.curves import write_curves

    out = options.out or default_out(options.runs, "curves")
    write_curves(options.runs, options.score, options.over, out, Console())
    return 0
