"""Qwen2-Audio as the FSDP actor trains it: transformers' class, made fit for FSDP2 (transformers 5.9 to 5.10)."""

from transformers import Qwen2AudioForConditionalGeneration as Base

from verl_leaf.models.actor import takes_features_key
from verl_leaf.models.whisper import WhisperActor


class Qwen2AudioForConditionalGeneration(WhisperActor, Base):
    """Same parameters, same names, same numbers as the base class, with the audio placeholder's logit masked."""

    forward = takes_features_key(Base.forward)
