"""Command ``verl-leaf evaluate``: score models, adapters, runs and files of answers, with intervals and tests."""

from pathlib import Path


def add_arguments(command) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add(
        "systems",
        nargs="*",
        metavar="[NAME=]SYSTEM",
        help="hub name; folder of a model, LoRA adapter or run; RUN@step; .jsonl file of answers",
    )
    add("--data", type=Path, help="parquet file of the rows to answer")
    add("--out", type=Path, default=Path("evaluation"), help="folder to write (default: %(default)s)")
    add("--base", help="base model of the adapters (default: the one that they name)")
    drawing = command.add_mutually_exclusive_group()
    drawing.add_argument("--passes", type=int, help="number of sampled answers per row (default: 5)")
    drawing.add_argument("--greedy", action="store_true", help="generate one answer per row by greedy decoding")
    add_sampling_arguments(command)
    add(
        "--paper",
        action="store_true",
        help="use the published protocol: 5 passes, default sampling, scores of lower-cased texts",
    )
    add("--metrics", nargs="+", help="metrics to compute (default: all that are possible)")
    add("--tokenize", help="sacrebleu's tokeniser for BLEU, WER and ROUGE (default: depends on the script)")
    add("--bertscore", metavar="MODEL@LAYER", help="model of BERTScore, such as roberta-large@17")
    add("--against", metavar="NAME", help="system that the others are compared with (default: the first)")
    add("--common", action="store_true", help="score only the answers that all systems have")
    add(
        "--controls",
        action="store_true",
        help="also ask multiple-choice questions without audio and with another row's audio",
    )
    add("--judge", type=Path, nargs="+", default=[], metavar="FILE.yaml", help="also ask these judges")
    add("--checkpoints", type=Path, metavar="RUN", help="select one of a run's saved checkpoints")
    add("--select", default="bleu", metavar="METRIC", help="score to select by (default: %(default)s)")
    add("--on", type=Path, metavar="FILE", help="parquet file of the rows to select on")
    add("--pick-on-test", action="store_true", help="allow selection on a test split")


def add_sampling_arguments(command) -> None:
    """Add the sampling arguments that several commands share."""
    add = command.add_argument
    add("--temperature", type=float, help="default: 0.9")
    add("--top-p", type=float, help="default: 0.9")
    add("--top-k", type=int, help="default: 50; -1 for all tokens")
    add("--max-tokens", type=int, help="most tokens of an answer (default: 200)")
    add("--seed", type=int, help="default: 0")
    add(
        "--vllm",
        nargs="+",
        default=[],
        metavar="ARGUMENT=VALUE",
        help="arguments of vLLM's engine, such as tensor_parallel_size=4",
    )


def main(options) -> int:
    """Generate answers, score and compare them, and write the results."""
    from verl_leaf.evaluate.command import evaluate

    return evaluate(options)
