"""Qwen3-Omni's thinker as the FSDP actor trains it: transformers' class, made fit for FSDP2 (transformers 5.10)."""

import torch
from transformers import Qwen3OmniMoeConfig
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration as Base

from verl_leaf.models.qwen3_omni_moe import SILENCE, with_silence
from verl_leaf.models.thinker import ThinkerActor


class Qwen3OmniMoeThinker(ThinkerActor, Base):
    """transformers' class as :class:`~verl_leaf.models.thinker.ThinkerActor` says.

    The router is as in vLLM: no noise, no loss of its own. LoRA leaves it alone.
    """

    config_class = Qwen3OmniMoeConfig

    def _encode(self, mel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        return super()._encode(*with_silence(mel, frames))[:-SILENCE]
