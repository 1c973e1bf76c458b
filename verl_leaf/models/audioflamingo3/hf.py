"""Audio Flamingo 3 as the FSDP actor trains it: transformers' class, made fit for FSDP2 (transformers 5.9 to 5.10)."""

import functools

from transformers import AudioFlamingo3ForConditionalGeneration as _AudioFlamingo3ForConditionalGeneration

from verl_leaf.models.masking import mask_token
from verl_leaf.models.whisper import PositionTable
from verl_leaf.speech.features import concatenate, fetch


class AudioFlamingo3ForConditionalGeneration(_AudioFlamingo3ForConditionalGeneration):
    """Same parameters, same names, same numbers as the base class, with the audio placeholder's logit masked.

    ``features_key``, as :func:`verl_leaf.speech.features.fetch` takes it, may stand in the place of the audio features.
    """

    def __init__(self, config):
        super().__init__(config)
        tower = self._parts.audio_tower
        tower.embed_positions = PositionTable(tower.embed_positions.weight)
        # transformers names the encoder's attention, which is called before its layer has gathered the rest.
        self._no_split_modules = {"AudioFlamingo3EncoderLayer", "Qwen2DecoderLayer"}

    @property
    def _parts(self):
        """What holds encoder, projector and language model: transformers 5.10 put a `model` between, 5.9 has none."""
        return getattr(self, "model", self)

    def enable_input_require_grads(self) -> None:
        """For LoRA: only of the language model, so that no backward pass goes through the frozen encoder."""
        self._parts.language_model.enable_input_require_grads()

    @functools.wraps(_AudioFlamingo3ForConditionalGeneration.forward)
    def forward(self, *args, features_key=None, **kwargs):
        if features_key is not None:
            kwargs |= concatenate(fetch(features_key))
        output = super().forward(*args, **kwargs)
        mask_token(output.logits, self.config.audio_token_id)
        return output
