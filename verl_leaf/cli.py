"""``verl-leaf``: the one command line of the project."""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="verl-leaf", description="LEAF and speech models for veRL.")
    commands = parser.add_subparsers(dest="command", required=True)

    doctor = commands.add_parser("doctor", help="check that this environment can train; says what to do if not")
    doctor.set_defaults(function=_doctor)

    train = commands.add_parser("train", help="run veRL's main_ppo in a run folder, watch it, summarise it")
    where = train.add_mutually_exclusive_group(required=True)
    where.add_argument("--run", type=Path, help="folder of the run")
    where.add_argument(
        "--runs", type=Path, help="folder of runs: go on with the last unfinished one, or begin a new one"
    )
    train.add_argument("--val", required=True, help="parquet file to validate on")
    train.add_argument("overrides", nargs="*", help="hydra overrides for verl.trainer.main_ppo, after --")
    train.set_defaults(function=_train)

    options = parser.parse_args(arguments)
    try:
        return options.function(options)
    except ValueError as error:
        print(f"verl-leaf {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _doctor(options) -> int:
    from verl_leaf.doctor import examine

    return examine()


def _train(options) -> int:
    from verl_leaf.run import choose_folder, train

    folder = options.run or choose_folder(options.runs, options.overrides)
    return train(folder, options.overrides, options.val)


if __name__ == "__main__":
    sys.exit(main())
