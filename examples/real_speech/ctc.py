"""Stage A: encoder and projector learn to write, without running the language model.

A frame's score for a unit is the inner product of the projected frame with the normalised input embedding of the unit's
token. CTC then finds out which frames say what. Units are the letters and frequent pieces of words, so that any word
can be written; frames that say nothing new go to an unused token. The language model then gets tokens that it nearly
knows.
"""

import random
from pathlib import Path

import jiwer
import torch
from peft import LoraConfig, inject_adapter_in_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, Qwen2AudioProcessor

from examples.real_speech.corpus import Utterances
from examples.real_speech.encoder import Encoder
from examples.real_speech.sentences import words
from examples.real_speech.training import Training
from verl_leaf.models.qwen2_audio.hf import Qwen2AudioForConditionalGeneration

BLANK = "<empty_output>"
LETTERS = "abcdefghijklmnopqrstuvwxyz'"
PIECES = 1000
BATCH = 16
RANK = 32
TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
LORA_RATE, PROJECTOR_RATE = 1e-3, 2e-3
CHECK_EVERY = 200


class Units:
    """The tokens that stage A writes with; the first one is the blank."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self._number = {token: number for number, token in enumerate(tokens)}
        self._longest = max(map(len, tokens[1:]))

    @classmethod
    def of(cls, texts: list[str], tokenizer: PreTrainedTokenizerBase) -> "Units":
        """Return the letters, at the beginning of a word and inside, and the pieces that BPE finds and the tokenizer has."""
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        bpe.train_from_iterator(
            (" ".join(words(text)) for text in texts), trainers.BpeTrainer(vocab_size=PIECES, show_progress=False)
        )
        letters = [*(f"Ġ{letter}" for letter in LETTERS), *LETTERS]
        pieces = sorted((bpe.get_vocab().keys() & tokenizer.get_vocab().keys()) - set(letters) - {"Ġ"})
        return cls([BLANK, *letters, *pieces])

    def write(self, text: str) -> list[int]:
        """Return a text as numbers of units: always the longest that fits."""
        written = []
        for word in words(text):
            rest = f"Ġ{word}"
            while rest:
                length = next(n for n in range(min(len(rest), self._longest), 0, -1) if rest[:n] in self._number)
                written.append(self._number[rest[:length]])
                rest = rest[length:]
        return written

    def read(self, best: list[int]) -> str:
        """Return the text that the best unit of each frame spells."""
        heard = [unit for last, unit in zip([0, *best], best, strict=False) if unit not in (0, last)]
        return "".join(self.tokens[unit] for unit in heard).replace("Ġ", " ").strip()


class Speller:
    """A model whose encoder gets low-rank matrices, which learn to write together with its projector.

    Args:
        model: the model; it is changed.
        processor: its processor.
        data: what to train on.
        path: file of the state.
        seed: for the low-rank matrices, the order of the clips and their disturbances.
    """

    def __init__(
        self,
        model: Qwen2AudioForConditionalGeneration,
        processor: Qwen2AudioProcessor,
        data: Utterances,
        path: Path,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self._data, self._seed = data, seed
        model.requires_grad_(False)
        self._encoder = Encoder(model, processor)
        parts = getattr(model, "model", model)
        with torch.no_grad():
            frames = torch.cat(self._encoder([data.waves[clip] for clip in data.batch(0, 64, seed)]))
        self._mean = torch.nn.Parameter(frames.mean(0), requires_grad=False)
        self._deviation = torch.nn.Parameter(frames.std(0), requires_grad=False)
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS), parts.audio_tower)
        self._projector, self._embeddings = parts.multi_modal_projector.linear, model.get_input_embeddings().weight
        self.units = Units.of(data.texts, processor.tokenizer)
        self._targets = [torch.tensor(self.units.write(text)) for text in data.texts]
        rows = processor.tokenizer.convert_tokens_to_ids(self.units.tokens)
        self._directions = functional.normalize(self._embeddings[rows], dim=1)
        self._linear = torch.nn.Linear(len(self._mean), self._directions.shape[1])
        torch.nn.init.zeros_(self._linear.weight)  # Confident guesses at first lead CTC to wrong alignments.
        torch.nn.init.zeros_(self._linear.bias)
        self._sharpness, self._blank = torch.nn.Parameter(torch.tensor(3.0)), torch.nn.Parameter(torch.tensor(0.0))
        scalars = {"sharpness": self._sharpness, "blank": self._blank}
        fixed = {"mean": self._mean, "deviation": self._deviation}
        lora = {name: weight for name, weight in parts.audio_tower.named_parameters() if weight.requires_grad}
        self._training = Training(
            "stage A",
            path,
            [(dict(self._linear.named_parameters()), PROJECTOR_RATE), (lora, LORA_RATE), (scalars, 1e-2), (fixed, 0.0)],
        )
        self.progress = self._training.progress

    def train(self, steps: int, validation: dict[str, Utterances]) -> None:
        """Train up to ``steps`` batches, and put the projector into the model, scaled to the norm of the embeddings."""
        self._training.run(steps, self._loss, lambda: self._check(validation), CHECK_EVERY)
        with torch.no_grad():
            frames = torch.cat(self._encoder([self._data.waves[clip] for clip in self._data.batch(0, 64, self._seed)]))
            norm = self._linear((frames - self._mean) / self._deviation).norm(dim=1).mean()
            scale = self._embeddings.norm(dim=1).mean() / norm
            weight = self._linear.weight / self._deviation
            self._projector.weight.copy_(scale * weight)
            self._projector.bias.copy_(scale * (self._linear.bias - weight @ self._mean))

    def hear(self, waves: list) -> list[str]:
        """Return what the units spell of each clip."""
        heard = []
        with torch.no_grad():
            for first in range(0, len(waves), BATCH):
                frames = self._encoder(waves[first : first + BATCH])
                heard += [self.units.read(self._log_probs(clip).argmax(-1).tolist()) for clip in frames]
        return heard

    def _log_probs(self, frames: torch.Tensor) -> torch.Tensor:
        mapped = self._linear((frames - self._mean) / self._deviation)
        likely = functional.pad(self._blank[None], (0, len(self._directions) - 1))
        return (self._sharpness * mapped @ self._directions.T + likely).log_softmax(-1)

    def _loss(self, step: int) -> torch.Tensor:
        chosen = self._data.batch(step, BATCH, self._seed)
        frames = self._encoder([self._data.waves[clip] for clip in chosen], random.Random(f"{self._seed} {step}"))
        return functional.ctc_loss(
            self._log_probs(pad_sequence(frames)),
            torch.cat([self._targets[clip] for clip in chosen]),
            torch.tensor([len(clip) for clip in frames]),
            torch.tensor([len(self._targets[clip]) for clip in chosen]),
            zero_infinity=True,
        )

    def _check(self, validation: dict[str, Utterances]) -> str:
        found = ""
        for name, data in validation.items():
            heard = self.hear(data.waves)
            found += f"\n    {name}: WER {word_errors(data.texts, heard):.3f}, {data.texts[0]!r} as {heard[0]!r}"
        return found


def word_errors(references: list[str], heard: list[str]) -> float:
    """Return the word error rate over all clips, without case and punctuation."""
    return jiwer.wer([" ".join(words(text)) for text in references], [" ".join(words(text)) for text in heard])
