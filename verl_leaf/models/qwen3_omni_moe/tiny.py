"""A tiny Qwen3-Omni with a talker, as in the hub's checkpoints."""

import torch
from transformers import Qwen3OmniMoeConfig

from verl_leaf.models.qwen3_omni_moe import pooled_frames
from verl_leaf.models.tiny import TEMPLATE, WHISPER, fast_tokenizer, whisper_extractor

NAMED_TOKENS = {
    "audio_token": "<|audio_pad|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
TOKENS = tuple(NAMED_TOKENS.values())
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}


def build_config(text, ids):
    positions = {"rope_type": "default", "rope_theta": 10000.0, "interleaved": True, "mrope_interleaved": True}
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "num_position_embeddings": 16}
    # vLLM reads these two. The hub's config.json has them, transformers' class does not.
    vision |= {"image_size": 64, "apply_vit_abs_pos_embed": True}
    heads = {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64}
    windows = {"n_window": 50, "n_window_infer": 800}
    placeholders = {
        "audio_token_id": ids["<|audio_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "audio_start_token_id": ids["<|audio_start|>"],
        # The hub's config.json has these, transformers' class does not.
        "audio_end_token_id": ids["<|audio_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "position_id_per_seconds": 13,
    }
    return Qwen3OmniMoeConfig(
        thinker_config={
            "text_config": {**EXPERTS, **text, "rope_parameters": {**positions, "mrope_section": [6, 5, 5]}},
            "audio_config": {**WHISPER, **windows, "output_dim": text["hidden_size"], "downsample_hidden_size": 16},
            "vision_config": {**vision, "out_hidden_size": text["hidden_size"], "deepstack_visual_indexes": [0, 1]},
            **placeholders,
        },
        talker_config={
            "text_config": {
                **{**layers, **heads, **EXPERTS, "shared_expert_intermediate_size": 32},
                "rope_parameters": {**positions, "mrope_section": [4, 2, 2]},
            },
            "code_predictor_config": {**layers, **heads, "num_code_groups": 2},
            "num_code_groups": 2,
            "thinker_hidden_size": text["hidden_size"],
            "accept_hidden_layer": 1,
            "spatial_merge_size": 2,
            **{name: id for name, id in placeholders.items() if name in TALKER},
        },
        code2wav_config={
            **{**layers, "num_key_value_heads": 2, "codebook_size": 16, "num_quantizers": 2},
            **{"decoder_dim": 32, "upsample_rates": [2, 2], "upsampling_ratios": [2]},
        },
        tie_word_embeddings=False,
    )


TALKER = ("audio_token_id", "image_token_id", "video_token_id", "vision_start_token_id", "audio_start_token_id")


def build_processor(tokenizer):
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, Qwen3OmniMoeProcessor

    tokenizer = fast_tokenizer(tokenizer.backend_tokenizer, extra_special_tokens=NAMED_TOKENS)
    template = TEMPLATE.replace("AUDIO", "<|audio_start|><|audio_pad|><|audio_end|>")
    return Qwen3OmniMoeProcessor(
        Qwen2VLImageProcessor(), Qwen2VLVideoProcessor(), whisper_extractor(), tokenizer, chat_template=template
    )


def random_audio(seconds):
    frames = int(100 * seconds)
    mel = torch.randn(frames, WHISPER["num_mel_bins"], generator=torch.Generator().manual_seed(int(1000 * seconds)))
    return {"input_features": mel, "audio_feature_lengths": torch.tensor([frames])}, pooled_frames(frames)
