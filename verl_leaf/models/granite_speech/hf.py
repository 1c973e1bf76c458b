"""Granite Speech as the FSDP actor trains it: transformers' class, made fit for micro-batches (transformers 5.9 to 5.10)."""

import functools

import torch
from transformers import GraniteSpeechForConditionalGeneration as _GraniteSpeechForConditionalGeneration

from verl_leaf.models.features import fetch
from verl_leaf.models.placeholder import mask_token


class GraniteSpeechForConditionalGeneration(_GraniteSpeechForConditionalGeneration):
    """Same parameters, same names, same numbers as the base class, with the audio placeholder's logit masked.

    ``features_key``, as :func:`verl_leaf.models.features.fetch` takes it, may stand in the place of the audio features.
    Each clip is then encoded alone, and once however many rows share it: the conformer sees what a clip is padded with, so
    in a batch its result would depend on its neighbours, and differ from the rollout engine's.
    """

    @property
    def _parts(self):
        """What holds encoder, projector and language model: transformers 5.10 put a `model` between, 5.9 has none."""
        return getattr(self, "model", self)

    def train(self, mode: bool = True):
        """As the base class, but the frozen encoder stays as it is: its BatchNorm would take the statistics of the
        batch, and let those of the checkpoint drift away from the rollout engine's."""
        super().train(mode)
        self._parts.encoder.eval()
        self._parts.projector.eval()
        return self

    def enable_input_require_grads(self) -> None:
        """For LoRA: only of the language model, so that no backward pass goes through the frozen encoder."""
        self._parts.language_model.enable_input_require_grads()

    @functools.wraps(_GraniteSpeechForConditionalGeneration.forward)
    def forward(self, input_ids=None, features_key=None, **kwargs):
        if features_key is not None:
            kwargs["inputs_embeds"] = self._merged(input_ids, fetch(features_key))
            input_ids = None
        output = super().forward(input_ids=input_ids, **kwargs)
        mask_token(output.logits, self.config.audio_token_id)
        return output

    def _merged(self, input_ids: torch.Tensor, rows: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Embeddings of the tokens, ``[rows, tokens, hidden]``, those of the audio in their places."""
        encoded: dict[int, torch.Tensor] = {}
        for features in rows:
            if id(features) not in encoded:
                clips = features["input_features"].to(self.dtype)
                encoded[id(features)] = torch.cat(
                    [self.get_audio_features(clip[None], return_dict=True).pooler_output[0] for clip in clips]
                )
        audio = torch.cat([encoded[id(features)] for features in rows])
        return self._parts.get_merged_audio_embeddings(input_ids, audio)
