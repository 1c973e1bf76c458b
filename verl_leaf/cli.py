"""``verl-leaf``: the one command line of the project."""

import argparse
import sys
import unicodedata
from pathlib import Path

from rich.console import Console

from verl_leaf import __version__
from verl_leaf.evaluate import add_arguments as add_evaluate_arguments
from verl_leaf.evaluate import add_sampling_arguments
from verl_leaf.evaluate import main as evaluate
from verl_leaf.prepare import add_arguments as add_prepare_arguments
from verl_leaf.prepare import main as prepare

# By their folders: the declarations import transformers.
FAMILIES = sorted(file.parent.name for file in Path(__file__).parent.glob("models/*/hf.py"))
# Those that need no options.
PLAIN_REWARDS = ("sentence_bleu", "sentence_bleu_uncased", "chrf", "wer", "cer", "rouge_l", "exact_match")


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


def printable(text: str) -> str:
    """The text with its control characters shown as escapes, all but line ends and tabs."""
    return "".join(
        ascii(character)[1:-1] if unicodedata.category(character) == "Cc" and character not in "\n\t" else character
        for character in text
    )


def parser() -> argparse.ArgumentParser:
    """All commands."""
    parser = argparse.ArgumentParser(prog="verl-leaf", description="LEAF and speech models for verl.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_doctor(commands)
    _add_train(commands)
    _add_export(commands)
    _add_merge(commands)
    _add_voicebench(commands)
    _add_prepare(commands)
    _add_data(commands)
    _add_evaluate(commands)
    _add_tree(commands)
    _add_forks(commands)
    _add_curves(commands)
    return parser


def _add_doctor(commands) -> None:
    command = commands.add_parser(
        "doctor", help="check that this environment, or a model, can be trained, and say what to do"
    )
    command.add_argument("model", nargs="?", help="model folder or hub name; without one, the environment")
    command.add_argument(
        "--gpu", action="store_true", help="run tiny models on the GPU and say whether it computes what it should"
    )
    command.add_argument("--gpus", type=int, help="does the published configuration for the model fit so many GPUs?")
    command.add_argument("--memory", type=float, default=80.0, help="of each GPU, GiB (default: %(default)s)")
    command.set_defaults(function=_doctor)


def _doctor(options) -> int:
    from verl_leaf.doctor.examine import examine, examine_gpu, examine_model

    if options.gpu:
        if options.model is not None:
            raise ValueError(f"--gpu makes its own models: leave out {options.model}")
        return examine_gpu()
    if options.gpus is not None and (options.gpus < 1 or options.model is None):
        raise ValueError(f"--gpus {options.gpus}: must be 1 or more, with a model")
    return examine_model(options.model, options.gpus, options.memory) if options.model else examine()


def _add_train(commands) -> None:
    command = commands.add_parser("train", help="run verl's main_ppo in a run folder, watch it, summarise it")
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--run", type=Path, help="folder of the run")
    where.add_argument(
        "--runs", type=Path, help="folder of runs: go on with the last unfinished one, or begin a new one"
    )
    command.add_argument("--config-name", help="verl's configuration (default: leaf_speech with --family, else leaf)")
    command.add_argument("--family", choices=FAMILIES, help="family of the speech model")
    command.add_argument("--model", help="model folder or hub name")
    command.add_argument("--train", type=Path, nargs="+", default=[], help="parquet files to train on")
    command.add_argument("--val", type=Path, required=True, help="parquet file to validate on")
    command.add_argument(
        "--epochs", type=int, default=1, help="warm restarts, each a run of its own (default: %(default)s)"
    )
    command.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    command.add_argument("overrides", nargs="*", help="Hydra overrides of the configuration, after --")
    command.set_defaults(function=_train)


def _train(options) -> int:
    from verl_leaf.runs.command import Training
    from verl_leaf.runs.folder import RunFolder, choose_folder
    from verl_leaf.runs.launch import train

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
    folder = RunFolder(options.run) if options.run else choose_folder(options.runs, training.record())
    console = Console()
    return train(training, folder, console, dry=options.dry_run, finished=lambda run: _draw_tree(run, console))


def _draw_tree(run, console: Console) -> None:
    """The tree page of a run that has traces."""
    from verl_leaf.show.tree_page.build import write_tree

    if any(run.traces.glob("*.jsonl")):
        write_tree(run.path, run.tree_page, None, console)
        console.print(f"How often its boundaries fire: verl-leaf forks {run.path}", soft_wrap=True, markup=False)


def _add_export(commands) -> None:
    command = commands.add_parser("export", help="the adapter of a run, or its merged model, in the hub's layout")
    command.add_argument("run", type=Path, help="folder of a run")
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.add_argument("--merged", action="store_true", help="write the whole model")
    command.set_defaults(function=_export)


def _export(options) -> int:
    from verl_leaf.runs.checkpoints.export import export_run

    export_run(options.run, options.out, options.merged, Console(stderr=True))
    print(options.out)
    return 0


def _add_voicebench(commands) -> None:
    command = commands.add_parser(
        "voicebench", help="answers to VoiceBench into its files, and scores that need no judge"
    )
    command.add_argument("answers", type=Path, nargs="+", help="files of answers, a JSON object per line")
    command.add_argument(
        "--data", type=Path, required=True, help="the parquet file that prepare voicebench has written"
    )
    command.add_argument("--out", type=Path, required=True, help="folder for VoiceBench's files and scores.json")
    command.set_defaults(function=_voicebench)


def _voicebench(options) -> int:
    from verl_leaf.evaluate.voicebench.command import voicebench

    return voicebench(options.answers, options.data, options.out, Console())


def _add_merge(commands) -> None:
    command = commands.add_parser("merge", help="a model with the LoRA adapter of its own merged into its weights")
    command.add_argument("model", help="model folder or hub name")
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.set_defaults(function=_merge)


def _merge(options) -> int:
    from verl_leaf.runs.checkpoints.merge import merge

    merge(options.model, None, options.out, Console(stderr=True))
    print(options.out)
    return 0


def _add_prepare(commands) -> None:
    command = commands.add_parser("prepare", help="make verl's parquet files of a corpus on disk")
    add_prepare_arguments(command)
    command.set_defaults(function=prepare)


def _add_evaluate(commands) -> None:
    command = commands.add_parser("evaluate", help="answers of models, adapters and runs, as scores with significance")
    add_evaluate_arguments(command)
    command.set_defaults(function=evaluate)


def _add_data(commands) -> None:
    command = commands.add_parser("data", help="show a parquet file and check its rows as the trainer would")
    command.add_argument("file", type=Path)
    how = command.add_mutually_exclusive_group()
    how.add_argument("--model", help="check the lengths of prompts and clips for this model, too")
    how.add_argument("--fast", action="store_true", help="look at a sample of the rows")
    command.add_argument("--max-prompt-length", type=int, default=1024, help="tokens (default: %(default)s)")
    for name, column in (("prompt", "prompt"), ("audio", "audios")):
        command.add_argument(f"--{name}-key", default=column, help=f"as data.{name}_key (default: %(default)s)")
    command.set_defaults(function=_data)


def _data(options) -> int:
    from verl_leaf.data.options import Keys
    from verl_leaf.prepare.inspect import show

    keys = Keys(prompt=options.prompt_key, audio=options.audio_key)
    return show(options.file, options.model, options.max_prompt_length, options.fast, keys)


def _add_tree(commands) -> None:
    command = commands.add_parser("tree", help="the traced trees of a run as an HTML page")
    command.add_argument("run", type=Path, help="folder of a run, or of traces")
    command.add_argument("--out", type=Path, help="HTML file (default: tree.html in the folder)")
    command.add_argument("--steps", type=int, nargs="+", help="steps to show (default: a dozen, evenly chosen)")
    command.set_defaults(function=_tree)


def _tree(options) -> int:
    from verl_leaf.show.tree_page.build import write_tree

    write_tree(options.run, options.out or options.run / "tree.html", options.steps, Console())
    return 0


def _add_forks(commands) -> None:
    command = commands.add_parser(
        "forks", help="how often boundaries fire, in runs or in answers of a model, as a figure"
    )
    _add_figure_arguments(command, "forks", "*")
    command.add_argument("--model", help="instead of runs: a model, adapter, run or RUN@step that answers --data")
    command.add_argument("--data", type=Path, help="parquet file")
    command.add_argument("--base", help="model of the adapter (default: as it says)")
    command.add_argument("--rollouts", type=int, default=8, help="answers to each row (default: %(default)s)")
    command.add_argument("--reward", default="sentence_bleu", choices=PLAIN_REWARDS, help="default: %(default)s")
    add_sampling_arguments(command)
    command.set_defaults(function=_forks)


def _forks(options) -> int:
    from verl_leaf.show.figures import default_out
    from verl_leaf.show.forks import write_forks

    runs, out = options.runs, options.out
    if bool(runs) == bool(options.model) or bool(options.model) != bool(options.data):
        raise ValueError("give folders of runs, or --model with --data")
    if options.model:
        from verl_leaf.evaluate.forks import write_traces

        out = out or Path("forks")
        runs = [out.with_name(f"{out.name}_traces")]
        write_traces(options, runs[0], Console(stderr=True))
    write_forks(runs, out or default_out(runs, "forks"), Console())
    return 0


def _add_curves(commands) -> None:
    command = commands.add_parser("curves", help="rewards and validation scores of runs, as a figure")
    _add_figure_arguments(command, "curves", "+")
    command.add_argument(
        "--score", type=float, action="append", default=[], help="find where runs reach it; repeatable"
    )
    command.set_defaults(function=_curves)


def _curves(options) -> int:
    from verl_leaf.show.curves import write_curves
    from verl_leaf.show.figures import default_out

    write_curves(options.runs, options.score, options.out or default_out(options.runs, "curves"), Console())
    return 0


def _add_figure_arguments(command: argparse.ArgumentParser, name: str, count: str) -> None:
    command.add_argument("runs", type=Path, nargs=count, help="folders of runs, finished or not")
    command.add_argument(
        "--out", type=Path, help=f"path less .png, .svg, .csv (default: {name}, in the folder if there is one)"
    )


if __name__ == "__main__":
    sys.exit(main())
