"""Audio Flamingo 3: windows of 30 s, up to ten minutes (25 audio tokens per second), before a Qwen2 language model."""

from verl_leaf.models.family import Family
from verl_leaf.models.whisper import CHECKPOINT_PREFIXES, audio_tokens, padding, unsupported_reason


def call_processor(processor, text, clips):
    encoded = dict(processor(text=[text], audio=clips, **padding(processor.feature_extractor, clips)))
    encoded.pop("num_audio_tokens", None)
    return encoded


AUDIO_FLAMINGO_3 = Family(
    model_type="audioflamingo3",
    architectures=("AudioFlamingo3ForConditionalGeneration",),
    processor_class="AudioFlamingo3Processor",
    extractor="feature_extractor",
    hf_class="verl_leaf.models.audioflamingo3.hf:AudioFlamingo3ForConditionalGeneration",
    vllm_class="verl_leaf.models.audioflamingo3.vllm:AudioFlamingo3ForConditionalGeneration",
    call_processor=call_processor,
    audio_tokens=audio_tokens,
    min_audio_tokens=1,
    max_clips=1,  # vllm/model_executor/models/audioflamingo3.py get_supported_mm_limits
    max_seconds=600.0,  # `max_audio_len` of the processor, which drops the rest
    checkpoint_prefixes=CHECKPOINT_PREFIXES,
    unsupported_reason=unsupported_reason,
)
