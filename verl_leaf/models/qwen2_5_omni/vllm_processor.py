"""How vLLM prepares Qwen2.5-Omni's audio (vllm 0.24.0)."""

from vllm.model_executor.models import qwen2_5_omni_thinker as base

from verl_leaf.models.whisper import padding


class Processor(base.Qwen2_5OmniThinkerMultiModalProcessor):
    """As its base class, without the silence up to 300 s, whose spectrogram takes longer than the clip's."""

    def _call_hf_processor(self, prompt, mm_data, mm_kwargs, tok_kwargs):
        if mm_data.get("audios"):
            mm_kwargs = {**mm_kwargs, **padding(self.info.get_feature_extractor(), mm_data["audios"])}
        return super()._call_hf_processor(prompt, mm_data, mm_kwargs, tok_kwargs)
