"""``verl-leaf forks``: how often boundaries fire, in runs or in answers of a model."""

from pathlib import Path

from verl_leaf.common.console import Console
from verl_leaf.evaluate import add_sampling_arguments
from verl_leaf.show import add_figure_arguments, default_out

# A copy, since the rewards' libraries take seconds to import.
REWARDS = ("sentence_bleu", "sentence_bleu_uncased", "chrf", "wer", "cer", "rouge_l", "exact_match", "choice")


def add_arguments(parser) -> None:
    """The command's arguments."""
    add_figure_arguments(parser, "forks", "*")
    parser.add_argument("--model", help="instead of runs: a model, adapter, run or RUN@step that answers --data")
    parser.add_argument("--data", type=Path, help="parquet file")
    parser.add_argument("--base", help="model of the adapter (default: as it says)")
    parser.add_argument("--rollouts", type=int, default=8, help="answers to each row (default: %(default)s)")
    parser.add_argument("--reward", default="sentence_bleu", choices=REWARDS, help="default: %(default)s")
    add_sampling_arguments(parser)


def main(options) -> int:
    """Write the figure, of a model after traces of its answers."""
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
