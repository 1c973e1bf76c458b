"""``verl-leaf``: the one command line of the project."""

import argparse
import importlib
import sys

from verl_leaf import __version__
from verl_leaf.common.printable import printable

# Command -> what it does, and the module with its ``add_arguments(parser)`` and ``main(options) -> int``.
COMMANDS = {
    "doctor": ("check that this environment, or a model, can be trained, and say what to do", "doctor"),
    "train": ("run verl's main_ppo in a run folder, watch it, summarise it", "show.train_command"),
    "export": ("the adapter of a run, or its merged model, in the hub's layout", "runs.checkpoints.export"),
    "merge": ("a model with the LoRA adapter of its own merged into its weights", "runs.checkpoints.merge_command"),
    "voicebench": (
        "answers to VoiceBench into its files, and scores that need no judge",
        "evaluate.voicebench.command",
    ),
    "prepare": ("make verl's parquet files of a corpus on disk", "prepare"),
    "data": ("show a parquet file and check its rows as the trainer would", "prepare.inspect"),
    "evaluate": ("answers of models, adapters and runs, as scores with significance", "evaluate"),
    "tree": ("the traced trees of a run as an HTML page", "show.tree_page"),
    "forks": ("how often boundaries fire, in runs or in answers of a model, as a figure", "evaluate.forks_command"),
    "credit": ("how much signal each estimator's gradient has for a model and data, before training", "credit"),
    "curves": ("rewards and validation scores of runs, as a figure", "show.curves_command"),
}


class Parser(argparse.ArgumentParser):
    """A parser that imports the module of its command, and takes its arguments from there, when it is called."""

    module: str | None = None

    def parse_known_args(self, args=None, namespace=None):
        if self.module is not None:
            module = importlib.import_module(f"verl_leaf.{self.module}")
            self.module = None
            module.add_arguments(self)
            self.set_defaults(function=module.main)
        return super().parse_known_args(args, namespace)


def parser() -> Parser:
    """All commands."""
    parser = Parser(prog="verl-leaf", description="LEAF and speech models for verl.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (summary, module) in COMMANDS.items():
        commands.add_parser(name, help=summary).module = module
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status. Bad input ends in one line on standard error."""
    options = parser().parse_args(arguments)
    try:
        return options.function(options)
    except (ValueError, OSError) as error:
        print(f"verl-leaf {options.command}: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
