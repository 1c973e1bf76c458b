"""The common part of the actor's classes: support for verl's FSDP engine, LoRA, and rows without audio."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from verl_leaf.models import features
from verl_leaf.models.placeholder import mask_placeholders


class SpeechActor(PreTrainedModel):
    """A mixin before transformers' class of a speech model (5.9 to 5.12).

    FSDP gathers a unit when it is entered, and all ranks must do so together. But a rank whose rows have no audio never
    enters the encoder, and others may enter it several times. So no part of the encoder may be a unit; it is gathered
    with the root. verl (utils/fsdp_utils.py _select_fsdp2_wrap_targets, 0.9.1) makes units of ``_no_split_modules``, which
    name the vision tower's layers in transformers 5.12's Qwen3-Omni, and of ``nn.Embedding``.
    """

    def __init__(self, config):
        super().__init__(config)
        self.feature_cache = features.FeatureCache()
        self._no_split_modules = [type(self.decoder_layers[0]).__name__]
        for part in self._audio_parts:
            for module in list(part.modules()):
                for name, child in module.named_children():
                    if isinstance(child, torch.nn.Embedding):
                        setattr(module, name, PositionTable(child.weight))

    @property
    def _parts(self) -> Any:
        """The module with encoder, projector and language model: `model` in transformers 5.10, the model itself in 5.9."""
        return getattr(self, "model", self)

    @property
    def _language(self) -> Any:
        """The language model; in transformers 5.9 it contains its output layer."""
        return self._parts.language_model

    @property
    def decoder_layers(self) -> torch.nn.ModuleList:
        """The layers of the language model."""
        return getattr(self._language, "model", self._language).layers

    @property
    def _audio_parts(self) -> list[torch.nn.Module]:
        """Encoder and projector, and everything else that is frozen."""
        language = (self._language, getattr(self, "lm_head", None))
        return [part for part in self._parts.children() if all(part is not module for module in language)]

    def enable_input_require_grads(self) -> None:
        """Make only the language model's inputs require gradients, for LoRA.

        transformers (modeling_utils.py) would do the same to the encoder's first layer, and every backward pass would
        needlessly go through the frozen encoder.
        """
        self._language.enable_input_require_grads()


class PositionTable(torch.nn.Module):
    """A table with the parameter and the result of an ``nn.Embedding``, but of another class.

    It is needed for the reason in :class:`SpeechActor`, and because Whisper's encoders read ``embed_positions.weight``
    without a call. If that were a unit of FSDP, they would find a shard.
    """

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = weight

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return F.embedding(index, self.weight)


def takes_features_key(forward: Callable) -> Callable:
    """Return a ``forward`` that accepts ``features_key`` instead of audio features, and masks the placeholders' logits.

    The key is that of :meth:`verl_leaf.models.features.FeatureCache.fetch`.
    """

    @functools.wraps(forward)
    def with_features_key(self, *args, features_key=None, **kwargs):
        if features_key is not None:
            kwargs |= features.concatenate(self.feature_cache.fetch(features_key))
        output = forward(self, *args, **kwargs)
        mask_placeholders(output.logits, self.config)
        return output

    return with_features_key
