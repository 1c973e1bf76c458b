"""Command ``verl-leaf forks``: show how often boundaries fire, in runs or in a model's answers."""

from pathlib import Path

from verl_leaf.common.console import Console
from verl_leaf.evaluate import add_sampling_arguments
from verl_leaf.show import add_figure_arguments, default_out

# A copy of the names, because importing the rewards' libraries takes seconds.
REWARDS = ("sentence_bleu", "sentence_bleu_uncased", "chrf", "wer", "cer", "rouge_l", "exact_match", "choice")


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add_figure_arguments(parser, "forks", "*")
    add("--model", help="model, adapter, run or RUN@step that answers --data, instead of runs")
    add("--data", type=Path, help="parquet file of the rows to answer")
    add("--base", help="base model of the adapter (default: the one that it names)")
    add("--rollouts", type=int, default=8, help="number of answers per row (default: %(default)s)")
    add("--reward", default="sentence_bleu", choices=REWARDS, help="reward of the answers (default: %(default)s)")
    add_sampling_arguments(parser)


def main(options) -> int:
    """Write the figure; with ``--model``, first write the traces of its answers."""
    from verl_leaf.show.forks import write_forks

    runs, out = options.runs, options.out
    if bool(runs) == bool(options.model) or bool(options.model) != bool(options.data):
        raise ValueError("there is nothing to show. Give folders of runs, or --model with --data")
    if options.model:
        from verl_leaf.evaluate.forks import write_traces

        out = out or Path("forks")
        runs = [out.with_name(f"{out.name}_traces")]
        write_traces(options, runs[0])
    write_forks(runs, out or default_out(runs, "forks"), Console())
    return 0
