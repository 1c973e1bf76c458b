"""Traces for tests, from the real estimator, on responses that share prefixes."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models

from verl_leaf.algorithm import leaf_advantages
from verl_leaf.algorithm.estimators import Rollouts
from verl_leaf.training.traces.schema import Head, file_name
from verl_leaf.training.traces.writer import prompts_of


class Words:
    """Tokenizer of whole pieces, as :func:`verl_leaf.training.traces.writer.pieces` needs one, for texts chosen by a test."""

    def __init__(self, pieces: list[str]):
        self.pieces = pieces
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        self.backend_tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=pieces[0]))
        self.backend_tokenizer.decoder = decoders.Fuse()

    def decode(self, tokens, **_) -> str:
        return "".join(self.pieces[token] for token in tokens)


def traced_prompt(
    responses: list[list[int]],
    surprisal: list[list[float]],
    rewards: list[float],
    pieces: list[str],
    question: list[int] = (),
    audio=(),
    reference="ja",
    **options,
) -> dict:
    """Return the line that a trace would contain for one prompt."""
    T = max(map(len, responses))

    def padded(rows, value):
        return torch.tensor([[*row, *[value] * (T - len(row))] for row in rows])

    mask = padded([[True] * len(row) for row in responses], False)
    tokens, nats = padded(responses, 0), padded([list(map(float, row)) for row in surprisal], 0.0)
    r = torch.tensor(rewards, dtype=torch.float64)
    group = torch.zeros(len(responses), dtype=torch.long)
    result = leaf_advantages(tokens, nats, r, mask, group, **options)
    rollouts = Rollouts(tokens, mask, r, group, surprisal=nats)
    content = [{"type": "audio", "audio": str(path)} for path in audio]
    rows = {
        "prompts": [torch.tensor(list(question))] * len(responses),
        "raw_prompt": [[{"role": "user", "content": content}]] * len(responses),
        "data_source": ["spoken"] * len(responses),
        "reward_model": [{"ground_truth": reference}] * len(responses),
    }
    (prompt,) = prompts_of(rollouts, result, rows, Words(pieces), Path())
    return prompt.model_dump()


def write_trace(folder: Path, step: int, prompts: list[dict], end: str = "\n") -> Path:
    """Write a file as :class:`verl_leaf.training.traces.writer.TraceWriter` does."""
    folder.mkdir(parents=True, exist_ok=True)
    head = Head(step=step, fork_budget=2, credit="both").model_dump()
    file = folder / file_name(step)
    lines = [json.dumps(line, ensure_ascii=False) for line in [head, *prompts]]
    file.write_text("\n".join(lines) + end, encoding="utf-8")
    return file


# The worked example of the README.
PIECES = ["<unk>", ".", "!", " drei", " alte", " zwei", " Hunde", " schlafen", " im", " Garten"]
WORKED = {
    "responses": [[5, 6, 7, 8, 9], [5, 6, 7, 4, 9], [5, 6, 3, 8, 9], [5, 6, 7, 8, 2]],
    "surprisal": [
        [0.1, 0.2, 0.9, 1.5, 0.1],
        [0.1, 0.2, 0.9, 2.0, 0.2],
        [0.1, 0.2, 2.5, 0.3, 0.1],
        [0.1, 0.2, 0.9, 1.5, 1.2],
    ],
    "rewards": [1.0, 0.5, 0.0, 0.8],
    "pieces": PIECES,
}
