"""Command ``verl-leaf credit``: estimate before training how much signal each estimator's gradient has."""

from pathlib import Path

from verl_leaf.evaluate import add_sampling_arguments
from verl_leaf.evaluate.forks_command import REWARDS


def add_arguments(command) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add("--model", required=True, help="hub name; folder of a model, LoRA adapter or run; RUN@step")
    add("--data", type=Path, required=True, help="parquet file of the prompts")
    add("--base", help="base model of the adapter (default: the one that it names)")
    add("--reward", default="sentence_bleu", choices=REWARDS, help="reward of the responses (default: %(default)s)")
    add("--prompts", type=int, default=64, help="number of rows, chosen at random with --seed (default: %(default)s)")
    add("--rollouts", type=int, default=64, help="number of responses per prompt (default: %(default)s)")
    add("--group", type=int, default=8, help="number of responses in a step's group, K (default: %(default)s)")
    add("--lora", action="store_true", help="use the gradients of LoRA, by autograd, instead of the last layer's")
    add("--out", type=Path, default=Path("credit"), help="folder to write (default: %(default)s)")
    add_sampling_arguments(command)


def main(options) -> int:
    """Generate rollouts, compute gradients, compare the estimators, and write the results."""
    from verl_leaf.credit.command import credit

    credit(options)
    return 0
