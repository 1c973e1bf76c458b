"""What the actor's class of every family has in common: it fits verl's FSDP engine, LoRA, and rows without audio."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from verl_leaf.models import features
from verl_leaf.models.placeholder import mask_placeholders


class SpeechActor(PreTrainedModel):
    """To be named before transformers' class of a speech model (5.9 to 5.10).

    FSDP gathers a unit when it is entered, and all ranks must do so together. A rank whose rows have no audio never enters
    the encoder, and others may enter it several times; so nothing in it is a unit, and it is gathered with the root. verl
    (utils/fsdp_utils.py _select_fsdp2_wrap_targets, 0.9.1) makes units of ``_no_split_modules`` and of ``nn.Embedding``.
    """

    def __init__(self, config):
        super().__init__(config)
        self.feature_cache = features.FeatureCache()
        self._no_split_modules = self._language._no_split_modules
        for part in self._audio_parts:
            for module in list(part.modules()):
                for name, child in module.named_children():
                    if isinstance(child, torch.nn.Embedding):
                        setattr(module, name, PositionTable(child.weight))

    @property
    def _parts(self) -> Any:
        """What holds encoder, projector and language model: transformers 5.10 put a `model` between, 5.9 has none."""
        return getattr(self, "model", self)

    @property
    def _language(self) -> Any:
        """The language model; in 5.9 its output layer is a part of it."""
        return self._parts.language_model

    @property
    def decoder_layers(self) -> torch.nn.ModuleList:
        """The layers of the language model."""
        return getattr(self._language, "model", self._language).layers

    @property
    def _audio_parts(self) -> list[torch.nn.Module]:
        """Encoder and projector, and whatever else is frozen."""
        language = (self._language, getattr(self, "lm_head", None))
        return [part for part in self._parts.children() if all(part is not each for each in language)]

    def enable_input_require_grads(self) -> None:
        """For LoRA: only of the language model. transformers (modeling_utils.py) would do the same to the encoder's first
        layer, and every backward pass would go through the frozen encoder for nothing."""
        self._language.enable_input_require_grads()


class PositionTable(torch.nn.Module):
    """An ``nn.Embedding``'s parameter and result without being one.

    Besides what :class:`SpeechActor` says: Whisper's encoders read ``embed_positions.weight`` without a call, and of a unit of
    FSDP they would find a shard.
    """

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = weight

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return F.embedding(index, self.weight)


def takes_features_key(forward: Callable) -> Callable:
    """Return a ``forward`` that takes ``features_key``, as :meth:`verl_leaf.models.features.FeatureCache.fetch` does, in the
    place of audio features, and masks the placeholders' logits."""

    @functools.wraps(forward)
    def with_features_key(self, *args, features_key=None, **kwargs):
        if features_key is not None:
            kwargs |= features.concatenate(self.feature_cache.fetch(features_key))
        output = forward(self, *args, **kwargs)
        mask_placeholders(output.logits, self.config)
        return output

    return with_features_key
