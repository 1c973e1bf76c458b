"""Command ``verl-leaf evaluate``: score models, adapters, runs and files of answers, with intervals and tests."""

from pathlib import Path


def add_arguments(command) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "systems",
        nargs="*",
        metavar="[NAME=]SYSTEM",
        help="hub name; folder of a model, LoRA adapter or run; RUN@step; .jsonl file of answers",
    )
    command.add_argument("--data", type=Path, help="parquet file of the rows to answer")
    command.add_argument("--out", type=Path, default=Path("evaluation"), help="folder to write (default: %(default)s)")
    command.add_argument("--base", help="base model of the adapters (default: the one that they name)")
    drawing = command.add_mutually_exclusive_group()
    drawing.add_argument("--passes", type=int, help="number of sampled answers per row (default: 5)")
    drawing.add_argument("--greedy", action="store_true", help="generate one answer per row by greedy decoding")
    add_sampling_arguments(command)
    command.add_argument(
        "--paper",
        action="store_true",
        help="use the published protocol: 5 passes, default sampling, scores of lower-cased texts",
    )
    command.add_argument("--metrics", nargs="+", help="metrics to compute (default: all that are possible)")
    command.add_argument(
        "--tokenize", help="sacrebleu's tokeniser for BLEU, WER and ROUGE (default: depends on the script)"
    )
    command.add_argument("--bertscore", metavar="MODEL@LAYER", help="model of BERTScore, such as roberta-large@17")
    command.add_argument(
        "--against", metavar="NAME", help="system that the others are compared with (default: the first)"
    )
    command.add_argument("--common", action="store_true", help="score only the answers that all systems have")
    command.add_argument(
        "--controls",
        action="store_true",
        help="also ask multiple-choice questions without audio and with another row's audio",
    )
    command.add_argument("--judge", type=Path, nargs="+", default=[], metavar="FILE.yaml", help="also ask these judges")
    command.add_argument("--checkpoints", type=Path, metavar="RUN", help="select one of a run's saved checkpoints")
    command.add_argument("--select", default="bleu", metavar="METRIC", help="score to select by (default: %(default)s)")
    command.add_argument("--on", type=Path, metavar="FILE", help="parquet file of the rows to select on")
    command.add_argument("--pick-on-test", action="store_true", help="allow selection on a test split")


def add_sampling_arguments(command) -> None:
    """Add the sampling arguments that several commands share."""
    command.add_argument("--temperature", type=float, help="default: 0.9")
    command.add_argument("--top-p", type=float, help="default: 0.9")
    command.add_argument("--top-k", type=int, help="default: 50; -1 for all tokens")
    command.add_argument("--max-tokens", type=int, help="most tokens of an answer (default: 200)")
    command.add_argument("--seed", type=int, help="default: 0")
    command.add_argument(
        "--vllm",
        nargs="+",
        default=[],
        metavar="ARGUMENT=VALUE",
        help="arguments of vLLM's engine, such as tensor_parallel_size=4",
    )


def main(options) -> int:
    """Generate answers, score and compare them, and write the results.

    Raises:
        ValueError: an option or input is wrong, or the engine stopped. The message says what to do.
    """
    from verl_leaf.evaluate.command import evaluate

    return evaluate(options)
