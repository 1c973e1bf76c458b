"""``verl-leaf``: the one command line of the project."""

import argparse
import sys
from pathlib import Path

from verl_leaf.models import FAMILIES
from verl_leaf.prepare import add_arguments
from verl_leaf.prepare import main as prepare_main


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="verl-leaf", description="LEAF and speech models for veRL.")
    commands = parser.add_subparsers(dest="command", required=True)

    doctor = commands.add_parser(
        "doctor", help="check that this environment, or a model, can be trained, and say what to do"
    )
    doctor.add_argument("model", nargs="?", help="model folder or hub name; without one, the environment")
    doctor.set_defaults(function=_doctor)

    train = commands.add_parser("train", help="run veRL's main_ppo in a run folder, watch it, summarise it")
    where = train.add_mutually_exclusive_group(required=True)
    where.add_argument("--run", type=Path, help="folder of the run")
    where.add_argument(
        "--runs", type=Path, help="folder of runs: go on with the last unfinished one, or begin a new one"
    )
    train.add_argument("--val", required=True, help="parquet file to validate on")
    train.add_argument(
        "--family", choices=FAMILIES, help="family of the speech model, whose settings precede the overrides"
    )
    train.add_argument(
        "--epochs", type=int, default=1, help="warm restarts, each a run of its own (default: %(default)s)"
    )
    train.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    train.add_argument("overrides", nargs="*", help="hydra overrides for verl.trainer.main_ppo, after --")
    train.set_defaults(function=_train)

    export = commands.add_parser("export", help="the adapter of a run, or its merged model, in the hub's layout")
    export.add_argument("run", type=Path, help="folder of a run")
    export.add_argument("--out", type=Path, required=True, help="folder to write")
    export.add_argument("--merged", action="store_true", help="write the whole model")
    export.set_defaults(function=_export)

    merge = commands.add_parser("merge", help="a model with the LoRA adapter of its own merged into its weights")
    merge.add_argument("model", help="model folder or hub name")
    merge.add_argument("--out", type=Path, required=True, help="folder to write")
    merge.set_defaults(function=_merge)

    prepare = commands.add_parser("prepare", help="make veRL's parquet files of a corpus on disk")
    add_arguments(prepare)
    prepare.set_defaults(function=prepare_main)

    data = commands.add_parser("data", help="show a parquet file and check its rows as the trainer would")
    data.add_argument("file", type=Path)
    how = data.add_mutually_exclusive_group()
    how.add_argument("--model", help="check the lengths of prompts and clips for this model, too")
    how.add_argument("--fast", action="store_true", help="look at a sample of the rows")
    data.add_argument("--max-prompt-length", type=int, default=1024, help="tokens (default: %(default)s)")
    data.set_defaults(function=_data)

    tree = commands.add_parser("tree", help="the traced trees of a run as an HTML page")
    tree.add_argument("run", type=Path, help="folder of a run, or of traces")
    tree.add_argument("--out", type=Path, help="HTML file (default: tree.html in the folder)")
    tree.add_argument("--steps", type=int, nargs="+", help="steps to show (default: a dozen, evenly chosen)")
    tree.set_defaults(function=_tree)

    for name, function, text in (
        ("forks", _forks, "how often boundaries fire in the traces of runs, as a figure"),
        ("curves", _curves, "rewards and validation scores of runs, as a figure"),
    ):
        figure = commands.add_parser(name, help=text)
        figure.add_argument("runs", type=Path, nargs="+", help="folders of runs, finished or not")
        figure.add_argument(
            "--out", type=Path, help=f"path less .png, .svg, .csv (default: {name}, in the folder if there is one)"
        )
        figure.set_defaults(function=function)
    figure.add_argument("--score", type=float, action="append", default=[], help="find where runs reach it; repeatable")

    options = parser.parse_args(arguments)
    try:
        return options.function(options)
    except ValueError as error:
        print(f"verl-leaf {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _data(options) -> int:
    from verl_leaf.prepare.inspect import show

    return show(options.file, options.model, options.max_prompt_length, options.fast)


def _tree(options) -> int:
    from rich.console import Console

    from verl_leaf.show.tree_page.build import write_tree

    write_tree(options.run, options.out or options.run / "tree.html", options.steps, Console())
    return 0


def _forks(options) -> int:
    from rich.console import Console

    from verl_leaf.show.figures import default_out
    from verl_leaf.show.forks import write_forks

    write_forks(options.runs, options.out or default_out(options.runs, "forks"), Console())
    return 0


def _curves(options) -> int:
    from rich.console import Console

    from verl_leaf.show.curves import write_curves
    from verl_leaf.show.figures import default_out

    write_curves(options.runs, options.score, options.out or default_out(options.runs, "curves"), Console())
    return 0


def _doctor(options) -> int:
    from verl_leaf.doctor import examine, examine_model

    return examine_model(options.model) if options.model else examine()


def _train(options) -> int:
    from verl_leaf.runs.launch import choose_folder, train

    if options.epochs < 1:
        raise ValueError(f"--epochs {options.epochs}: must be 1 or more")
    return train(
        options.run or choose_folder(options.runs, options.overrides),
        options.overrides,
        options.val,
        family=options.family,
        epochs=options.epochs,
        dry=options.dry_run,
    )


def _export(options) -> int:
    from rich.console import Console

    from verl_leaf.checkpoints.export import export_run

    export_run(options.run, options.out, options.merged, Console())
    print(options.out)
    return 0


def _merge(options) -> int:
    from rich.console import Console

    from verl_leaf.checkpoints.merge import merge

    merge(options.model, None, options.out, Console(stderr=True))
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
