"""The audio placeholder is never generated.

A sampled placeholder has no audio behind it, and the next forward pass of the actor stops with "Audio features and
audio tokens do not match". veRL bans only the placeholders of images and videos (verl/workers/rollout/utils.py). The
same logit is masked in the actor's class and in vLLM's, so both compute the same distribution.
"""

import torch

MASKED_LOGIT = -1e4  # exp() of it is 0 in every float type, and no softmax turns it into NaN


def mask_token(logits: torch.Tensor, token_id: int) -> torch.Tensor:
    """Mask one token, in place: ``logits`` is ``[..., vocabulary]`` and may be part of a graph."""
    logits[..., token_id] = MASKED_LOGIT
    return logits
