"""The spoken corpus of the bridge's training: what the frozen encoder hears when the voices speak the sentences."""

import functools
import operator
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from examples.real_speech import sentences
from examples.real_speech.voices import HELD_OUT, TRAIN, Speaker, Voices
from verl_leaf.common.files import whole_file
from verl_leaf.common.progress import track
from verl_leaf.models.whisper import padding, pooled_frames

SHARD = 200
"""Clips in a file, which is made as a whole or not at all."""
VALIDATION = 200
"""The number of sentences that only the held-out voices speak."""
SEED = 0


@dataclass(frozen=True)
class Utterances:
    """Sentences and what the encoder makes of them."""

    texts: list[str]
    frames: list[torch.Tensor]
    """bfloat16 ``[frames, width]`` for each sentence, 25 frames per second."""


class Encoder:
    """The model's encoder, for one clip at a time."""

    def __init__(self, model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor) -> None:
        self._tower = getattr(model, "model", model).audio_tower.eval()
        self._extractor = processor.feature_extractor

    @torch.inference_mode()
    def __call__(self, wave: np.ndarray) -> torch.Tensor:
        """Return the frames of a clip, bfloat16 ``[frames, width]``; ``wave``: float at 16 kHz."""
        made = self._extractor(
            wave,
            sampling_rate=self._extractor.sampling_rate,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
            **padding(self._extractor, [wave])["audio_kwargs"],
        )
        frames = int(made.attention_mask.sum())
        positions = self._tower.config.max_source_positions
        heard = torch.arange(positions) < (frames - 1) // 2 + 1
        hidden = self._tower(made.input_features, attention_mask=heard.expand(1, 1, positions, positions))
        return hidden.last_hidden_state[0, : pooled_frames(frames)].bfloat16().clone()


def make(folder: Path, encoder: Encoder, clips: int) -> tuple[Utterances, Utterances]:
    """Return the clips for training and for validation, which differ in sentences and in voices.

    Files that an earlier call made are used again.
    """
    texts = sentences.read()
    random.Random(SEED).shuffle(texts)
    held_out, texts = texts[:VALIDATION], texts[VALIDATION:]
    shards = [
        [texts[number % len(texts)] for number in range(first, first + SHARD)] for first in range(0, clips, SHARD)
    ]
    speaker = Speaker()
    validation = _shard(folder / "validation.pt", held_out, HELD_OUT, SEED, speaker, encoder)
    made = [
        _shard(folder / f"train-{number:03d}.pt", shard, TRAIN, SEED + 1 + number, speaker, encoder)
        for number, shard in enumerate(shards)
    ]
    return Utterances(
        [text for shard in made for text in shard.texts],
        functools.reduce(operator.iadd, (shard.frames for shard in made), []),
    ), validation


def _shard(path: Path, texts: list[str], voices: Voices, seed: int, speaker: Speaker, encoder: Encoder) -> Utterances:
    if not path.exists():
        rng = random.Random(seed)
        spoken, frames = [], []
        for text in track(texts, f"Speaking {path.name}", total=len(texts)):
            wave = speaker(text, voices, rng)
            if wave is not None:
                spoken.append(text)
                frames.append(encoder(wave))
        with whole_file(path) as partial:
            torch.save({"texts": spoken, "frames": frames}, partial)
    return Utterances(**torch.load(path))
