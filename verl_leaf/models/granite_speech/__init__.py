"""Granite Speech: a conformer without a fixed length and a windowed Q-Former (10 audio tokens per second) before Granite.

IBM's checkpoints of 3.3 (2B, 8B) and 4.0 (1B) belong to this family.
"""

import torch

from verl_leaf.models.family import Family

CHECKPOINT_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.encoder.": "encoder.",
    "model.projector.": "projector.",
}


def call_processor(processor, text, clips):
    """Encode a prompt. The extractor pads before it measures, so each clip is encoded alone and its mask is all ones."""
    encoded = dict(processor(text=[text], audio=[torch.from_numpy(clip) for clip in clips], return_tensors="pt"))
    encoded.pop("input_features_mask")
    return encoded


def audio_tokens(processor, samples: int) -> int:
    extractor = processor.audio_processor
    if samples <= extractor.melspec_kwargs["n_fft"] // 2:  # the spectrogram mirrors this much at both ends
        return 0
    return extractor._get_num_audio_features([samples])[0]


def unsupported_reason(config) -> str | None:
    """Return why vLLM cannot serve a model of this configuration, or None (modeling_granite_speech.py, the projector)."""
    if config.window_size % config.downsample_rate:
        return f"window_size {config.window_size} is not a multiple of downsample_rate {config.downsample_rate}"
    return None


GRANITE_SPEECH = Family(
    model_type="granite_speech",
    architectures=("GraniteSpeechForConditionalGeneration",),
    processor_class="GraniteSpeechProcessor",
    extractor="audio_processor",
    hf_class="verl_leaf.models.granite_speech.hf:GraniteSpeechForConditionalGeneration",
    vllm_class="verl_leaf.models.granite_speech.vllm:GraniteSpeechForConditionalGeneration",
    call_processor=call_processor,
    audio_tokens=audio_tokens,
    min_audio_tokens=1,
    max_clips=1,  # vllm/model_executor/models/granite_speech.py get_supported_mm_limits
    max_seconds=500.0,  # the same file, get_max_audio_len
    checkpoint_prefixes=CHECKPOINT_PREFIXES,
    unsupported_reason=unsupported_reason,
)
