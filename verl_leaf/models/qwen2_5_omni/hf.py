"""Qwen2.5-Omni's thinker for the FSDP actor: transformers' class, adapted to FSDP2 (transformers 5.10)."""

from transformers import Qwen2_5OmniConfig
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Base

from verl_leaf.models.thinker import ThinkerActor


class Qwen2_5OmniThinker(ThinkerActor, Base):
    """transformers' class with :class:`~verl_leaf.models.thinker.ThinkerActor`."""

    config_class = Qwen2_5OmniConfig
