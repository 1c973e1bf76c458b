"""A tiny Granite Speech."""

import torch
from transformers import GraniteSpeechConfig, GraniteSpeechFeatureExtractor, GraniteSpeechProcessor

from verl_leaf.models.tiny import TEMPLATE

TOKENS = ("<|audio|>",)
TEXT = {
    "model_type": "granite",
    # Otherwise all are 1: attention would be too sharp for bf16, and no test would notice a factor that is omitted. With the hub's
    # values, audio would change the output of so small a model too little.
    "attention_multiplier": 32**-0.5,  # for a head's dimensions
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.7,
    "logits_scaling": 0.7,
}
ENCODER = {
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
    "dropout": 0.1,  # as in the checkpoints
}
PROJECTOR = {
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


def build_config(text, ids):
    return GraniteSpeechConfig(
        text_config={**TEXT, **text},
        encoder_config=dict(ENCODER),
        projector_config=dict(PROJECTOR),
        audio_token_index=ids["<|audio|>"],
        has_lora_adapter=False,
        downsample_rate=5,
        window_size=15,
        tie_word_embeddings=False,
    )


def build_processor(tokenizer):
    template = TEMPLATE.replace("AUDIO", "<|audio|>")
    return GraniteSpeechProcessor(GraniteSpeechFeatureExtractor(), tokenizer, chat_template=template)


def random_audio(seconds):
    """Return random features and their number of audio tokens; 15 features, of two mel frames each, give three tokens."""
    frames, generator = int(50 * seconds), torch.Generator().manual_seed(int(1000 * seconds))
    return {"input_features": torch.randn(1, frames, 160, generator=generator)}, -(-frames // 15) * 3
