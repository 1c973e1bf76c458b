"""Stage A: the projector learns to spell, without the language model.

A frame's score for a unit is the inner product of the projected frame with the normalised input embedding of the unit's token.
CTC then finds out which frames say what. Units are the letters and the most frequent words, so that any word can be written;
frames that say nothing new go to an unused token.
"""

import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from examples.real_speech.assemble import PROJECTOR
from examples.real_speech.convert import Weights
from examples.real_speech.corpus import Utterances

BLANK = "<empty_output>"
LETTERS = "abcdefghijklmnopqrstuvwxyz'"
WHOLE_WORDS = 100
BATCH = 32
LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Units:
    """The tokens that stage A writes with; the first one is the blank."""

    tokens: list[str]

    @classmethod
    def of(cls, texts: list[str], tokenizer: PreTrainedTokenizerBase) -> "Units":
        """Return the letters, at the beginning of a word and inside, and the most frequent words that are one token."""
        vocabulary = tokenizer.get_vocab()
        counts = Counter(f"Ġ{word}" for text in texts for word in words(text))
        frequent = [token for token, _ in counts.most_common() if token in vocabulary and len(token) > 2][:WHOLE_WORDS]
        return cls([BLANK, *(f"Ġ{letter}" for letter in LETTERS), *LETTERS, *frequent])

    def write(self, text: str) -> list[int]:
        """Return a text as numbers of units."""
        number = {token: number for number, token in enumerate(self.tokens)}
        spelled = []
        for word in words(text):
            whole = f"Ġ{word}"
            spelled += (
                [number[whole]] if whole in number else [number[whole[:2]], *(number[letter] for letter in word[1:])]
            )
        return spelled

    def read(self, best: list[int]) -> str:
        """Return the text that the best unit of each frame spells."""
        heard = [unit for last, unit in zip([0, *best], best, strict=False) if unit not in (0, last)]
        return "".join(self.tokens[unit] for unit in heard).replace("Ġ", " ").strip()


def words(text: str) -> list[str]:
    """Return the lower-case words of a text."""
    return re.findall(r"[a-z']*[a-z][a-z']*", text.lower())


def train(
    data: Utterances,
    validation: Utterances,
    embeddings: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
    steps: int,
    score: Callable[[list[str], list[str]], float],
    seed: int = 0,
) -> tuple[Weights, float]:
    """Return a projector for the frames as they are, scaled to the norm of the embeddings, and its word error rate.

    Args:
        data: what to train on.
        validation: what the word error rate is of.
        embeddings: the language model's, float ``[tokens, hidden]``.
        tokenizer: the language model's.
        steps: number of batches of ``BATCH`` clips.
        score: the word error rate of (references, hypotheses).
        seed: for the order of the clips.
    """
    units = Units.of(data.texts, tokenizer)
    targets = [torch.tensor(units.write(text)) for text in data.texts]
    directions = functional.normalize(embeddings[tokenizer.convert_tokens_to_ids(units.tokens)], dim=1)
    frames = torch.cat(data.frames).float()
    mean, deviation = frames.mean(0), frames.std(0)
    linear = torch.nn.Linear(len(mean), len(directions[0]))
    torch.nn.init.zeros_(linear.weight)  # From random, confident guesses CTC seldom finds back to the right alignment.
    torch.nn.init.zeros_(linear.bias)
    sharpness, blank = torch.nn.Parameter(torch.tensor(3.0)), torch.nn.Parameter(torch.tensor(0.0))
    optimizer = torch.optim.AdamW([{"params": linear.parameters()}, {"params": [sharpness, blank]}], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [LEARNING_RATE, 1e-2], total_steps=steps, pct_start=0.1)
    likely = torch.zeros(len(directions))
    likely[0] = 1.0

    def log_probs(clips: list[torch.Tensor]) -> torch.Tensor:
        mapped = linear(pad_sequence([(clip.float() - mean) / deviation for clip in clips], batch_first=True))
        return (sharpness * mapped @ directions.T + blank * likely).log_softmax(-1)

    def hear() -> list[str]:
        with torch.inference_mode():
            return [units.read(log_probs([clip])[0].argmax(-1).tolist()) for clip in validation.frames]

    rng, order, began = random.Random(seed), [], time.process_time()
    for step in range(1, steps + 1):
        if len(order) < BATCH:
            order = rng.sample(range(len(targets)), len(targets))
        chosen = [order.pop() for _ in range(BATCH)]
        clips = [data.frames[number] for number in chosen]
        loss = functional.ctc_loss(
            log_probs(clips).transpose(0, 1),
            torch.cat([targets[number] for number in chosen]),
            torch.tensor([len(clip) for clip in clips]),
            torch.tensor([len(targets[number]) for number in chosen]),
            zero_infinity=True,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == steps:
            heard = hear()
            wer = score(validation.texts, heard)
            seconds = time.process_time() - began
            print(
                f"stage A: step {step}, loss {loss.item():.2f}, WER {wer:.3f}, {seconds:.0f} CPU s: {heard[0]!r}",
                flush=True,
            )
    with torch.no_grad():
        norm = linear((frames[:10_000] - mean) / deviation).norm(dim=1).mean()
        scale = embeddings.norm(dim=1).mean() / norm
        weight = linear.weight / deviation
        bias = linear.bias - weight @ mean
    return {f"{PROJECTOR}.weight": weight.detach() * scale, f"{PROJECTOR}.bias": bias.detach() * scale}, wer
