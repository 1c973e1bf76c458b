"""Masking of placeholders' logits, so that placeholders are never generated.

A sampled placeholder has no audio (image, video), so the next forward pass of the actor would stop with "Audio features and
audio tokens do not match". verl bans only the placeholders of images and videos, and only in vLLM
(verl/workers/rollout/utils.py). The same logits are masked in the actor's class and in vLLM's, so both compute the same
distribution.
"""

import torch

MASKED_LOGIT = -1e4  # exp() of it is 0 in every float type, and no softmax turns it into NaN


def placeholders(config) -> tuple[int, ...]:
    """Return the placeholders of audio, and those of images and videos if a model of this configuration has them."""
    names = ("audio_token_id", "image_token_id", "video_token_id")
    return tuple(getattr(config, name) for name in names if hasattr(config, name))


def mask_placeholders(logits: torch.Tensor, config) -> torch.Tensor:
    """Mask the placeholders in place; ``logits`` is ``[..., vocabulary]`` and may be part of a graph.

    A placeholder's gradient is 0 unless it is a target token, which it never is. So the graph need not contain the
    mask, whose backward pass would copy the gradient of all logits: 0.8 GiB for 8 responses to a prompt of Qwen2-Audio.
    """
    values = logits.detach()
    for token_id in placeholders(config):
        values[..., token_id] = MASKED_LOGIT
    return logits
