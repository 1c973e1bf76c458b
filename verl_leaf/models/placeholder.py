"""Placeholders are never generated.

A sampled placeholder has no audio (image, video) behind it, and the next forward pass of the actor stops with "Audio
features and audio tokens do not match". veRL bans only the placeholders of images and videos, and only in vLLM
(verl/workers/rollout/utils.py). The same logits are masked in the actor's class and in vLLM's, so both compute the same
distribution.
"""

import torch

MASKED_LOGIT = -1e4  # exp() of it is 0 in every float type, and no softmax turns it into NaN


def mask_tokens(logits: torch.Tensor, *token_ids: int) -> torch.Tensor:
    """Mask tokens, in place: ``logits`` is ``[..., vocabulary]`` and may be part of a graph."""
    for token_id in token_ids:
        logits[..., token_id] = MASKED_LOGIT
    return logits
