"""Command ``verl-leaf train``: train a run, and draw the tree page of its traces."""

from pathlib import Path

from verl_leaf.common.console import Console

# Listed by their folders, because the families' declarations import transformers.
FAMILIES = sorted(file.parent.name for file in Path(__file__).parents[1].glob("models/*/hf.py"))


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--run", type=Path, help="folder of the run")
    where.add_argument("--runs", type=Path, help="folder of runs: resume the last unfinished one, or start a new one")
    add("--config-name", help="verl's configuration (default: leaf_speech with --family, otherwise leaf)")
    add("--family", choices=FAMILIES, help="family of the speech model")
    add("--model", help="model folder or hub name")
    add("--train", type=Path, nargs="+", default=[], help="parquet files to train on")
    add("--val", type=Path, required=True, help="parquet file to validate on")
    add(
        "--epochs",
        type=int,
        default=1,
        help="number of warm restarts, each a separate run of verl (default: %(default)s)",
    )
    add("--dry-run", action="store_true", help="print the commands without running them")
    add("overrides", nargs="*", help="Hydra overrides of the configuration, after --")


def main(options) -> int:
    """Train, and return the exit status of verl."""
    from verl_leaf.runs.command import Training
    from verl_leaf.runs.folder import RunFolder, choose_folder
    from verl_leaf.runs.launch import check, train

    if options.epochs < 1:
        raise ValueError(f"--epochs {options.epochs}: set it to 1 or more")
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
    """Draw the tree page of a run that has traces."""
    from verl_leaf.runs.traces import trace_files
    from verl_leaf.show.tree_page.build import write_tree

    if run.traces.is_dir() and trace_files(run.traces):
        # Any audio may be included, because the run is this machine's own.
        write_tree(run.path, run.tree_page, None, console, audio=Path("/"))
        console.print(f"How often its boundaries fire: verl-leaf forks {run.path}")
