"""Qwen2-Audio as the FSDP actor trains it: transformers' class, made fit for FSDP2 (transformers 5.9 to 5.10)."""

import functools

from transformers import Qwen2AudioForConditionalGeneration as _Qwen2AudioForConditionalGeneration

from verl_leaf.models.features import concatenate, fetch
from verl_leaf.models.placeholder import mask_token
from verl_leaf.models.whisper import WhisperFront


class Qwen2AudioForConditionalGeneration(WhisperFront, _Qwen2AudioForConditionalGeneration):
    """Same parameters, same names, same numbers as the base class, with the audio placeholder's logit masked.

    ``features_key``, as :func:`verl_leaf.models.features.fetch` takes it, may stand in the place of the audio features.
    """

    @functools.wraps(_Qwen2AudioForConditionalGeneration.forward)
    def forward(self, *args, features_key=None, **kwargs):
        if features_key is not None:
            kwargs |= concatenate(fetch(features_key))
        output = super().forward(*args, **kwargs)
        mask_token(output.logits, self.config.audio_token_id)
        return output
