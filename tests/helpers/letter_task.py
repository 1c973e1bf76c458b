"""The task of examples/next_letter for a model that may ask a tool for the letter after the first, and does so half of the time.

python -m tests.helpers.letter_task MODEL_FOLDER
"""

import json
import random
import sys
from pathlib import Path

from examples.next_letter import prepare, reward

STEPS = 80


def call(letter: str) -> str:
    """One token, in verl's format ``hermes``."""
    called = {"name": "after", "arguments": {"letter": letter}}
    return f"<tool_call>{json.dumps(called, separators=(',', ':'))}</tool_call>"


def asking(rng: random.Random, letters: list[str]) -> list[dict]:
    if rng.random() < 0.5:
        return prepare.undecided(rng, letters)
    return [
        {"role": "assistant", "content": call(letters[0])},
        {"role": "tool", "content": prepare.shift(letters[0], 1)},
        *prepare.undecided(rng, letters),
    ]


def share_right(data_source, solution_str: str, ground_truth: str, extra_info=None, **_) -> float:
    """Return the share of letters that are right in the last turn; verl passes all turns."""
    return reward.share_right(data_source, solution_str.rpartition("assistant")[2], ground_truth)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    tokenizer = prepare.build_tokenizer()
    tokenizer.add_tokens(["tool", "system", *map(call, prepare.LETTERS[1:-1])])
    model = prepare.build_model(tokenizer)
    prepare.warm_start(model, tokenizer, STEPS, asking)
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)
