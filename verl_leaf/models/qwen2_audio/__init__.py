"""Qwen2-Audio: a Whisper-like encoder with a window of 30 s (25 audio tokens per second) before a Qwen2 language model."""

from verl_leaf.models.family import Family
from verl_leaf.models.whisper import CHECKPOINT_PREFIXES, audio_tokens, padding, unsupported_reason


def call_processor(processor, text, clips):
    extractor = processor.feature_extractor
    arguments = {"sampling_rate": extractor.sampling_rate, **padding(extractor, clips)}
    return processor(text=[text], audio=clips, return_tensors="pt", **arguments)


QWEN2_AUDIO = Family(
    model_type="qwen2_audio",
    architectures=("Qwen2AudioForConditionalGeneration",),
    processor_class="Qwen2AudioProcessor",
    extractor="feature_extractor",
    hf_class="verl_leaf.models.qwen2_audio.hf:Qwen2AudioForConditionalGeneration",
    vllm_class="verl_leaf.models.qwen2_audio.vllm:Qwen2AudioForConditionalGeneration",
    call_processor=call_processor,
    audio_tokens=audio_tokens,
    min_audio_tokens=2,  # by which transformers recognises expanded prompts (modeling_qwen2_audio.py `legacy_processing`)
    max_clips=None,
    max_seconds=30.0,
    checkpoint_prefixes=CHECKPOINT_PREFIXES,
    unsupported_reason=unsupported_reason,
)
