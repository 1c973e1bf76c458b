"""Qwen3-Omni's thinker: a Whisper-like encoder with windows of 1 s (13 audio tokens per second) before a Qwen3 mixture of experts.

Checkpoints contain the whole model, and positions have three axes, as in Qwen2.5-Omni. In transformers and vLLM the
features and the encoder's output of a clip depend on the clips that are processed with it, in two ways. Actor and rollout
must compute the same, so here they do not:

- The feature extractor mirrors the end of the longest clip of a call, and fills the others with silence
  (feature_extraction_whisper.py). Here each call has one clip.
- The encoder pads all windows of a call to the longest one, and its convolutions see the padding
  (``chunk_and_pad_features``, vLLM's qwen3_omni_moe_thinker.py). So the end of a clip shorter than a window depends on
  whether there is a longer clip. Here every call has a whole window (:func:`with_silence`).
"""

import re

import numpy as np
import torch
from torch.nn import functional as F

from verl_leaf.models.family import Family
from verl_leaf.models.thinker import CHECKPOINT_PREFIXES, unsupported_reason

WINDOW = 100  # mel frames: `2 * n_window` in all released models, and a constant in the libraries' formulas
SILENCE = 13  # audio tokens of a window


def pooled_frames(frames):
    """Return the number of audio tokens of mel frames: an integer, or a tensor of integers."""
    rest = frames % WINDOW
    for _ in range(3):  # convolutions
        rest = (rest - 1) // 2 + 1
    return frames // WINDOW * SILENCE + rest


def with_silence(mel: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips with a window of silence after the last one, which becomes :data:`SILENCE` audio tokens.

    ``mel`` ``[bins, frames]`` contains one clip after the other, and ``frames`` int64 ``[clips]`` their lengths.
    """
    return F.pad(mel, (0, WINDOW)), F.pad(frames, (0, 1), value=WINDOW)


def whole_hops(extractor, clip: np.ndarray) -> np.ndarray:
    """Return a clip padded with zeros to a whole number of hops, as in vLLM's processor."""
    return np.pad(clip, (0, -len(clip) % extractor.hop_length))


def call_processor(processor, text, clips):
    """Encode a prompt; ``input_features`` are the frames of all clips in a row."""
    extractor = processor.feature_extractor
    counts = iter([audio_tokens(processor, len(clip)) for clip in clips])
    expanded = re.sub(re.escape(processor.audio_token), lambda match: match[0] * next(counts), text)
    settings = {"padding": False, "truncation": False, "sampling_rate": extractor.sampling_rate, "return_tensors": "pt"}
    mel = [extractor(whole_hops(extractor, clip), **settings)["input_features"][0].T for clip in clips]
    encoded = processor.tokenizer(expanded, return_tensors="pt")
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "input_features": torch.cat(mel),
        "audio_feature_lengths": torch.tensor([len(frames) for frames in mel]),
    }


def audio_tokens(processor, samples: int) -> int:
    extractor = processor.feature_extractor
    frames = -(-samples // extractor.hop_length)
    if frames * extractor.hop_length <= extractor.n_fft // 2:  # the spectrogram mirrors this much at both ends
        return 0
    return pooled_frames(frames)


QWEN3_OMNI_MOE = Family(
    model_type="qwen3_omni_moe",
    architectures=("Qwen3OmniMoeForConditionalGeneration",),
    processor_class="Qwen3OmniMoeProcessor",
    extractor="feature_extractor",
    hf_class="verl_leaf.models.qwen3_omni_moe.hf:Qwen3OmniMoeThinker",
    vllm_class="verl_leaf.models.qwen3_omni_moe.vllm:Qwen3OmniMoeThinker",
    call_processor=call_processor,
    audio_tokens=audio_tokens,
    min_audio_tokens=1,
    max_clips=None,
    max_seconds=600.0,  # 7,800 tokens: the recipes' max_num_batched_tokens, as large as vLLM's encoder cache, holds 8192
    checkpoint_prefixes=CHECKPOINT_PREFIXES,
    unsupported_reason=unsupported_reason,
    # torchvision is for images and videos; without it transformers builds no processor. vLLM's class has LoRA from 0.29 on.
    needs=("torchvision", "vllm>=0.29"),
    extra="gpu-newest",
)
