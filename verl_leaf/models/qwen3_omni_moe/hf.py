"""Qwen3-Omni's thinker for the FSDP actor: transformers' class adapted to FSDP2 (transformers 5.10)."""

import torch
from transformers import Qwen3OmniMoeConfig
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration as Base

from verl_leaf.models.qwen3_omni_moe import SILENCE, with_silence
from verl_leaf.models.thinker import ThinkerActor


class Qwen3OmniMoeThinker(ThinkerActor, Base):
    """transformers' class with :class:`~verl_leaf.models.thinker.ThinkerActor`.

    As in vLLM, the router has neither noise nor an auxiliary loss. LoRA does not change it.
    """

    config_class = Qwen3OmniMoeConfig

    def _encode(self, mel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        return super()._encode(*with_silence(mel, frames))[:-SILENCE]
