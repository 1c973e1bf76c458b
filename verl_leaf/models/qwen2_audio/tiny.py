"""A tiny Qwen2-Audio."""

import functools

from transformers import Qwen2AudioConfig, Qwen2AudioProcessor

from verl_leaf.models.tiny import WHISPER, whisper_extractor, whisper_features

TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")


def build_config(text, ids):
    return Qwen2AudioConfig(
        text_config={"model_type": "qwen2", **text},
        audio_config={"model_type": "qwen2_audio_encoder", "max_source_positions": 1500, **WHISPER},
        audio_token_index=ids["<|AUDIO|>"],
        tie_word_embeddings=False,
    )


def build_processor(tokenizer):
    return Qwen2AudioProcessor(whisper_extractor(), tokenizer)


random_audio = functools.partial(whisper_features, "feature_attention_mask")
