"""``verl-leaf evaluate``: from models, adapters, runs and answers to tables with intervals and tests."""

from pathlib import Path


def add_arguments(command) -> None:
    """The command's arguments."""
    command.add_argument(
        "systems",
        nargs="*",
        metavar="[NAME=]SYSTEM",
        help="hub name; folder of a model, a LoRA adapter or a run; RUN@step; .jsonl of answers",
    )
    command.add_argument("--data", type=Path, help="parquet file to answer")
    command.add_argument("--out", type=Path, default=Path("evaluation"), help="folder (default: %(default)s)")
    command.add_argument("--base", help="model of the adapters (default: as they say)")
    drawing = command.add_mutually_exclusive_group()
    drawing.add_argument("--passes", type=int, help="sampled answers to each row (default: 5)")
    drawing.add_argument("--greedy", action="store_true", help="one answer, the most likely tokens")
    add_sampling_arguments(command)
    command.add_argument(
        "--paper",
        action="store_true",
        help="the published protocol: 5 passes, the sampling that is the default here, texts in lower case",
    )
    command.add_argument("--metrics", nargs="+", help="which to compute (default: all that can be)")
    command.add_argument(
        "--tokenize", help="sacrebleu's tokeniser for BLEU, WER and ROUGE (default: as the script needs)"
    )
    command.add_argument("--bertscore", metavar="MODEL@LAYER", help="model of BERTScore, such as roberta-large@17")
    command.add_argument(
        "--against", metavar="NAME", help="system that the others are compared with (default: the first)"
    )
    command.add_argument("--common", action="store_true", help="score the answers that all systems have")
    command.add_argument(
        "--controls",
        action="store_true",
        help="of questions with choices, ask without audio and with another row's audio, too",
    )
    command.add_argument("--judge", type=Path, nargs="+", default=[], metavar="FILE.yaml", help="judges to ask, too")
    command.add_argument("--checkpoints", type=Path, metavar="RUN", help="pick one of the adapters that a run has kept")
    command.add_argument("--select", default="bleu", metavar="METRIC", help="by which score (default: %(default)s)")
    command.add_argument("--on", type=Path, metavar="FILE", help="parquet file to pick on")
    command.add_argument("--pick-on-test", action="store_true", help="pick on a test split all the same")


def add_sampling_arguments(command) -> None:
    """How answers are drawn, for every command that draws some."""
    command.add_argument("--temperature", type=float, help="default: 0.9")
    command.add_argument("--top-p", type=float, help="default: 0.9")
    command.add_argument("--top-k", type=int, help="default: 50; -1 for all tokens")
    command.add_argument("--max-tokens", type=int, help="of an answer (default: 200)")
    command.add_argument("--seed", type=int, help="default: 0")
    command.add_argument(
        "--vllm",
        nargs="+",
        default=[],
        metavar="ARGUMENT=VALUE",
        help="for vLLM's engine, such as tensor_parallel_size=4",
    )


def main(options) -> int:
    """Generate, score, compare, write.

    Raises:
        ValueError: an option or input is wrong, or the engine stopped; the message says what to do.
    """
    from verl_leaf.evaluate.command import evaluate

    return evaluate(options)
