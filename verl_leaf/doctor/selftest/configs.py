"""Configurations of tiny models of every family. Needs transformers alone."""

from transformers import (
    AudioFlamingo3Config,
    GraniteSpeechConfig,
    PreTrainedConfig,
    Qwen2_5OmniConfig,
    Qwen2AudioConfig,
)

TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": None,
}
WHISPER = {"num_mel_bins": 32}
GRANITE_TEXT = {
    "model_type": "granite",
    # All 1 unless given: attention would be too sharp for bf16, and no test would see one that is forgotten. With the hub's,
    # audio would change too little in so small a model.
    "attention_multiplier": 32**-0.5,  # of a head's dimensions
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.7,
    "logits_scaling": 0.7,
}
GRANITE_ENCODER = {
    "model_type": "granite_speech_encoder",
    "input_dim": 160,
    "num_layers": 2,
    "hidden_dim": 64,
    "feedforward_mult": 2,
    "num_heads": 2,
    "dim_head": 32,
    "output_dim": 32,
    "context_size": 50,
    "max_pos_emb": 512,
    "conv_kernel_size": 15,
    "conv_expansion_factor": 2,
    "dropout": 0.1,  # as the checkpoints have it
}
GRANITE_PROJECTOR = {
    "model_type": "blip_2_qformer",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "encoder_hidden_size": 64,
    "cross_attention_frequency": 1,
    "max_position_embeddings": 2048,
    "attention_probs_dropout_prob": 0.1,
    "hidden_dropout_prob": 0.1,
}

DIT_ENCODER = {
    "enc_emb_dim": 16,
    "enc_dim": 16,
    "enc_channels": [16, 16, 16, 16, 48],
    "enc_attention_channels": 16,
    "enc_se_channels": 16,
}


def qwen2_audio(text: dict, audio_token: int) -> PreTrainedConfig:
    encoder = {"d_model": 96, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 192}
    return Qwen2AudioConfig(
        text_config={"model_type": "qwen2", **text},
        audio_config={"model_type": "qwen2_audio_encoder", "max_source_positions": 1500, **WHISPER, **encoder},
        audio_token_index=audio_token,
        tie_word_embeddings=False,
    )


def audioflamingo3(text: dict, audio_token: int) -> PreTrainedConfig:
    encoder = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
    return AudioFlamingo3Config(
        text_config={"model_type": "qwen2", **text},
        audio_config={"model_type": "audioflamingo3_encoder", **WHISPER, **encoder},
        audio_token_id=audio_token,
        tie_word_embeddings=False,
    )


def granite_speech(text: dict, audio_token: int) -> PreTrainedConfig:
    return GraniteSpeechConfig(
        text_config={**GRANITE_TEXT, **text},
        encoder_config=dict(GRANITE_ENCODER),
        projector_config=dict(GRANITE_PROJECTOR),
        audio_token_index=audio_token,
        has_lora_adapter=False,
        downsample_rate=5,
        window_size=15,
        tie_word_embeddings=False,
    )


def qwen2_5_omni(text: dict, audio_token: int, *others: int) -> PreTrainedConfig:
    """With a talker, as the hub's checkpoints have one. ``others``: the tokens of image and video, and of beginning and end of
    audio and of both."""
    image, video, audio_start, audio_end, vision_start, vision_end = others or range(audio_token + 1, audio_token + 7)
    encoder = {"d_model": 96, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 192}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "fullatt_block_indexes": [1]}
    positions = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Qwen2_5OmniConfig(
        thinker_config={
            "text_config": {**text, "rope_parameters": positions},
            "audio_config": {**WHISPER, **encoder, "output_dim": text["hidden_size"]},
            "vision_config": {**vision, "out_hidden_size": text["hidden_size"]},
            "audio_token_index": audio_token,
            **{"image_token_index": image, "video_token_index": video},
            **{"audio_start_token_id": audio_start, "audio_end_token_id": audio_end},
            # The hub's config.json has these two, transformers' class has not.
            **{"vision_start_token_id": vision_start, "vision_end_token_id": vision_end},
        },
        talker_config={
            **{**layers, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64},
            **{"embedding_size": text["hidden_size"], "rope_parameters": {**positions, "mrope_section": [2, 3, 3]}},
        },
        token2wav_config={
            "dit_config": {**layers, "head_dim": 16, "emb_dim": 16, "num_embeds": 32, **DIT_ENCODER},
            "bigvgan_config": {"upsample_initial_channel": 64},
        },
        tie_word_embeddings=False,
    )


BUILD = {
    "qwen2_audio": qwen2_audio,
    "granite_speech": granite_speech,
    "audioflamingo3": audioflamingo3,
    "qwen2_5_omni": qwen2_5_omni,
}
