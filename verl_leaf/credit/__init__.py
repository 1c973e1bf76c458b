"""``verl-leaf credit``: how much signal the gradient of each estimator has, for a model and data, before any training."""

from pathlib import Path

from verl_leaf.evaluate import add_sampling_arguments
from verl_leaf.evaluate.forks_command import REWARDS


def add_arguments(command) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "--model", required=True, help="hub name; folder of a model, a LoRA adapter or a run; RUN@step"
    )
    command.add_argument("--data", type=Path, required=True, help="parquet file")
    command.add_argument("--base", help="model of the adapter (default: the one that it names)")
    command.add_argument("--reward", default="sentence_bleu", choices=REWARDS, help="default: %(default)s")
    command.add_argument(
        "--prompts", type=int, default=64, help="rows of the data, chosen by --seed (default: %(default)s)"
    )
    command.add_argument("--rollouts", type=int, default=64, help="responses to each prompt (default: %(default)s)")
    command.add_argument("--group", type=int, default=8, help="responses in a step's group, K (default: %(default)s)")
    command.add_argument(
        "--lora", action="store_true", help="gradients of LoRA, by autograd, instead of the last layer's"
    )
    command.add_argument("--out", type=Path, default=Path("credit"), help="folder (default: %(default)s)")
    add_sampling_arguments(command)


def main(options) -> int:
    """Generate, take gradients, compare, write.

    Raises:
        ValueError: an option or input is wrong, or the engine stopped; the message says what to do.
    """
    from verl_leaf.credit.command import credit

    credit(options)
    return 0
