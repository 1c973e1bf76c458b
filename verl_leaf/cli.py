"""The command line ``verl-leaf``, which has all commands of the project."""

import argparse
import importlib
import sys

from verl_leaf import __version__
from verl_leaf.common.printable import printable

# Command -> its summary, and the module with its ``add_arguments(parser)`` and ``main(options) -> int``.
COMMANDS = {
    "doctor": ("check whether this environment, or a model, can be used for training, and say what to do", "doctor"),
    "train": ("run verl's main_ppo in a run folder, watch it and summarise it", "show.train_command"),
    "export": ("write the adapter of a run, or its merged model, in the hub's layout", "runs.checkpoints.export"),
    "merge": ("merge the LoRA adapter in a model folder into the model's weights", "runs.checkpoints.merge_command"),
    "voicebench": (
        "write answers to VoiceBench into its files, and score what needs no judge",
        "evaluate.voicebench.command",
    ),
    "prepare": ("convert a corpus on disk to verl's parquet files", "prepare"),
    "data": ("summarise a parquet file, and check its rows as the trainer would", "prepare.inspect"),
    "evaluate": ("score answers of models, adapters and runs, with tests of significance", "evaluate"),
    "tree": ("write the traced trees of a run as an HTML page", "show.tree_page"),
    "forks": ("show how often boundaries fire, in runs or in a model's answers", "evaluate.forks_command"),
    "credit": ("estimate before training how much signal each estimator's gradient has", "credit"),
    "curves": ("draw rewards and validation scores of runs", "show.curves_command"),
}


class Parser(argparse.ArgumentParser):
    """A parser that imports the module of its command only when it is called, and gets its arguments there."""

    module: str | None = None

    def parse_known_args(self, args=None, namespace=None):
        if self.module is not None:
            module = importlib.import_module(f"verl_leaf.{self.module}")
            self.module = None
            module.add_arguments(self)
            self.set_defaults(function=module.main)
        return super().parse_known_args(args, namespace)


def parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(prog="verl-leaf", description="LEAF and speech models for verl.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (summary, module) in COMMANDS.items():
        commands.add_parser(name, help=summary).module = module
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return its exit status. Bad input gives one line on standard error."""
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
