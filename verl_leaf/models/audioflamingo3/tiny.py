"""A tiny Audio Flamingo 3."""

import functools

from transformers import AudioFlamingo3Config, AudioFlamingo3Processor

from verl_leaf.models.tiny import TEMPLATE, WHISPER, whisper_extractor, whisper_features

TOKENS = ("<sound>",)


def build_config(text, ids):
    return AudioFlamingo3Config(
        text_config={"model_type": "qwen2", **text},
        audio_config={"model_type": "audioflamingo3_encoder", **WHISPER},
        audio_token_id=ids["<sound>"],
        tie_word_embeddings=False,
    )


def build_processor(tokenizer):
    template = TEMPLATE.replace("AUDIO", "<sound>")
    return AudioFlamingo3Processor(whisper_extractor(), tokenizer, chat_template=template)


random_audio = functools.partial(whisper_features, "input_features_mask")
