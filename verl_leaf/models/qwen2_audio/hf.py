"""Qwen2-Audio as the FSDP actor trains it: transformers' class, made fit for FSDP2 (transformers 5.9 to 5.10)."""

import functools

from transformers import Qwen2AudioForConditionalGeneration as _Qwen2AudioForConditionalGeneration

from verl_leaf.models.masking import mask_token
from verl_leaf.models.whisper import PositionTable
from verl_leaf.speech.features import concatenate, fetch


class Qwen2AudioForConditionalGeneration(_Qwen2AudioForConditionalGeneration):
    """Same parameters, same names, same numbers as the base class, with the audio placeholder's logit masked.

    ``features_key``, as :func:`verl_leaf.speech.features.fetch` takes it, may stand in the place of the audio features.
    """

    def __init__(self, config):
        super().__init__(config)
        tower = self._parts.audio_tower
        tower.embed_positions = PositionTable(tower.embed_positions.weight)
        # transformers names the encoder's attention and the layer around it; veRL shards both, and the attention is
        # then resharded while its layer still runs.
        self._no_split_modules = {"Qwen2AudioEncoderLayer", "Qwen2DecoderLayer"}

    @property
    def _parts(self):
        """What holds encoder, projector and language model: transformers 5.10 put a `model` between, 5.9 has none."""
        return getattr(self, "model", self)

    def enable_input_require_grads(self) -> None:
        """For LoRA: only of the language model. transformers (modeling_utils.py) would do the same to the encoder's first
        convolution, and every backward pass would go through the frozen encoder for nothing."""
        self._parts.language_model.enable_input_require_grads()

    @functools.wraps(_Qwen2AudioForConditionalGeneration.forward)
    def forward(self, *args, features_key=None, **kwargs):
        if features_key is not None:
            kwargs |= concatenate(fetch(features_key))
        output = super().forward(*args, **kwargs)
        mask_token(output.logits, self.config.audio_token_id)
        return output
