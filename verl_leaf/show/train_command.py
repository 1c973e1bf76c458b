"""``verl-leaf train``: a run, and the tree page of what it has traced."""

from pathlib import Path

from verl_leaf.common.console import Console

# By their folders: the declarations import transformers.
FAMILIES = sorted(file.parent.name for file in Path(__file__).parents[1].glob("models/*/hf.py"))


def add_arguments(parser) -> None:
    """The command's arguments."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--run", type=Path, help="folder of the run")
    where.add_argument(
        "--runs", type=Path, help="folder of runs: go on with the last unfinished one, or begin a new one"
    )
    parser.add_argument("--config-name", help="verl's configuration (default: leaf_speech with --family, else leaf)")
    parser.add_argument("--family", choices=FAMILIES, help="family of the speech model")
    parser.add_argument("--model", help="model folder or hub name")
    parser.add_argument("--train", type=Path, nargs="+", default=[], help="parquet files to train on")
    parser.add_argument("--val", type=Path, required=True, help="parquet file to validate on")
    parser.add_argument(
        "--epochs", type=int, default=1, help="warm restarts, each a run of its own (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of the configuration, after --")


def main(options) -> int:
    """Train; the exit status of verl."""
    from verl_leaf.runs.command import Training
    from verl_leaf.runs.folder import RunFolder, choose_folder
    from verl_leaf.runs.launch import check, train

    if options.epochs < 1:
        raise ValueError(f"--epochs {options.epochs}: must be 1 or more")
    training = Training(
        config_name=options.config_name or ("leaf_speech" if options.family else "leaf"),
        overrides=tuple(options.overrides),
        validation=options.val,
        train=tuple(options.train),
        model=options.model,
        family=options.family,
        epochs=options.epochs,
    )
    check(training, dry=options.dry_run)
    if options.run:
        folder = RunFolder(options.run)
    else:
        folder = choose_folder(options.runs, training.record(), make=not options.dry_run)
    console = Console()
    return train(training, folder, console, dry=options.dry_run, finished=lambda run: _draw_tree(run, console))


def _draw_tree(run, console: Console) -> None:
    """The tree page of a run that has traces."""
    from verl_leaf.runs.traces import trace_files
    from verl_leaf.show.tree_page.build import write_tree

    if run.traces.is_dir() and trace_files(run.traces):
        write_tree(run.path, run.tree_page, None, console, audio=Path("/"))  # it is this machine's own run
        console.print(f"How often its boundaries fire: verl-leaf forks {run.path}")
