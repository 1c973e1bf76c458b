"""Qwen2.5-Omni's thinker: a Whisper-like encoder with windows of 2 s (25 audio tokens per second) before a Qwen2 model.

Checkpoints contain the whole model: the thinker, which hears, sees and writes, below ``thinker.``, and the talker,
which is not loaded. The language model's positions have three axes, for time, height and width of images and videos.
Text and audio have the same position on all three axes, one more for each token (transformers' modeling_qwen2_5_omni.py
``get_rope_index``, vLLM's qwen2_5_omni_thinker.py ``get_mrope_input_positions``), so one axis is enough.
"""

from verl_leaf.models.family import Family
from verl_leaf.models.thinker import CHECKPOINT_PREFIXES, unsupported_reason
from verl_leaf.models.whisper import audio_tokens, padding


def call_processor(processor, text, clips):
    """Encode a prompt; ``input_features`` are the unmasked frames of all clips in a row."""
    encoded = processor(text=[text], audio=clips, return_tensors="pt", **padding(processor.feature_extractor, clips))
    heard = encoded["feature_attention_mask"].bool()
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "input_features": encoded["input_features"].transpose(1, 2)[heard],
        "audio_feature_lengths": heard.sum(dim=1),
    }


QWEN2_5_OMNI = Family(
    model_type="qwen2_5_omni",
    architectures=("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
    processor_class="Qwen2_5OmniProcessor",
    extractor="feature_extractor",
    hf_class="verl_leaf.models.qwen2_5_omni.hf:Qwen2_5OmniThinker",
    vllm_class="verl_leaf.models.qwen2_5_omni.vllm:Qwen2_5OmniThinker",
    call_processor=call_processor,
    audio_tokens=audio_tokens,
    min_audio_tokens=1,
    max_clips=None,
    max_seconds=300.0,  # `chunk_length` of the extractor, which drops the rest
    checkpoint_prefixes=CHECKPOINT_PREFIXES,
    unsupported_reason=unsupported_reason,
    needs=("torchvision",),  # for images and videos; without it transformers builds no processor, and vLLM no class
)
