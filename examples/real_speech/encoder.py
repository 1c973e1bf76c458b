"""The frames that a Qwen2-Audio's encoder computes for clips, with gradients, optionally with disturbances for training."""

import random

import numpy as np
import torch
from transformers import Qwen2AudioProcessor

from examples.real_speech.voices import vary
from verl_leaf.models.qwen2_audio.hf import Qwen2AudioForConditionalGeneration
from verl_leaf.models.whisper import padding, pooled_frames

BINS_MASKED, FRAMES_MASKED = 12, 12
"""The widest of the two bands and the longest of the two moments that SpecAugment (arXiv 1904.08779) may mask in a clip."""


class Encoder:
    """The encoder of a model. It computes nothing of the silence up to Whisper's 30 s.

    Args:
        model: the model, of the project's class, whose encoder leaves out padding.
        processor: its processor.
    """

    def __init__(self, model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor) -> None:
        self._tower = getattr(model, "model", model).audio_tower.eval()
        self._extractor = processor.feature_extractor

    def __call__(self, waves: list[np.ndarray], rng: random.Random | None = None) -> list[torch.Tensor]:
        """Return the frames of each clip, float ``[frames, width]``, 25 per second.

        Args:
            waves: 16 kHz, float32, or int16.
            rng: if given, the clips are varied and masked at random, differently each time.
        """
        waves = [wave / np.float32(32768) if wave.dtype == np.int16 else wave for wave in waves]
        if rng is not None:
            waves = [vary(wave, rng) for wave in waves]
        made = self._extractor(
            waves,
            sampling_rate=self._extractor.sampling_rate,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
            **padding(self._extractor, waves)["audio_kwargs"],
        )
        counts = made.attention_mask.sum(1)
        mel = made.input_features if rng is None else masked(made.input_features, counts.tolist(), rng)
        positions = mel.shape[-1] // 2  # the second convolution halves them
        heard = torch.arange(positions) < ((counts - 1) // 2 + 1)[:, None]
        mask = heard[:, None, None].expand(-1, 1, positions, positions)
        hidden = self._tower(mel, attention_mask=mask).last_hidden_state
        return [clip[:count] for clip, count in zip(hidden, pooled_frames(counts).tolist(), strict=True)]


def masked(mel: torch.Tensor, counts: list[int], rng: random.Random) -> torch.Tensor:
    """Replace two bands and two moments of each clip of ``[clips, bins, frames]`` by the clip's mean."""
    mel = mel.clone()
    for clip, count in zip(mel, counts, strict=True):
        mean = clip[:, :count].mean()
        for _ in range(2):
            width, length = rng.randint(0, BINS_MASKED), rng.randint(0, min(FRAMES_MASKED, count // 10))
            low, first = rng.randint(0, len(clip) - width), rng.randint(0, count - length)
            clip[low : low + width, :count] = mean
            clip[:, first : first + length] = mean
    return mel
