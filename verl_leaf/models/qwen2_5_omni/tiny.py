"""A tiny Qwen2.5-Omni, with a talker as in the hub's checkpoints."""

import torch
from transformers import Qwen2_5OmniConfig

from verl_leaf.models.tiny import TEMPLATE, WHISPER, fast_tokenizer, whisper_extractor
from verl_leaf.models.whisper import pooled_frames

NAMED_TOKENS = {
    "audio_token": "<|AUDIO|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}
TOKENS = tuple(NAMED_TOKENS.values())
FILES: dict = {"spk_dict.pt": {}}  # the talker's voices, which transformers needs to load the whole model
DIT_ENCODER = {
    "enc_emb_dim": 16,
    "enc_dim": 16,
    "enc_channels": [16, 16, 16, 16, 48],
    "enc_attention_channels": 16,
    "enc_se_channels": 16,
}


def build_config(text, ids):
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "fullatt_block_indexes": [1]}
    positions = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Qwen2_5OmniConfig(
        thinker_config={
            "text_config": {**text, "rope_parameters": positions},
            "audio_config": {**WHISPER, "output_dim": text["hidden_size"]},
            "vision_config": {**vision, "out_hidden_size": text["hidden_size"]},
            "audio_token_index": ids["<|AUDIO|>"],
            "image_token_index": ids["<|IMAGE|>"],
            "video_token_index": ids["<|VIDEO|>"],
            "audio_start_token_id": ids["<|audio_bos|>"],
            "audio_end_token_id": ids["<|audio_eos|>"],
            # The hub's config.json contains these two, but transformers' class does not.
            "vision_start_token_id": ids["<|vision_bos|>"],
            "vision_end_token_id": ids["<|vision_eos|>"],
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


def build_processor(tokenizer):
    from transformers import Qwen2_5OmniProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer = fast_tokenizer(tokenizer.backend_tokenizer, extra_special_tokens=NAMED_TOKENS)
    template = TEMPLATE.replace("AUDIO", "<|audio_bos|><|AUDIO|><|audio_eos|>")
    return Qwen2_5OmniProcessor(
        Qwen2VLImageProcessor(),
        Qwen2VLVideoProcessor(),
        whisper_extractor(seconds=300, return_attention_mask=True),
        tokenizer,
        chat_template=template,
    )


def random_audio(seconds):
    frames = int(100 * seconds)
    mel = torch.randn(frames, WHISPER["num_mel_bins"], generator=torch.Generator().manual_seed(int(1000 * seconds)))
    return {"input_features": mel, "audio_feature_lengths": torch.tensor([frames])}, pooled_frames(frames)
