"""Tiny random models of the other families: the real classes, from small configs, laid out as on the hub.

python -m tests.helpers.tiny_models FAMILY PROCESSOR_FOLDER OUT        (the tokenizer is the tiny Qwen2-Audio's)
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from verl_leaf.models import FAMILIES
from verl_leaf import patches

patches.install()

from transformers import (  # noqa: E402
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)

TEMPLATE = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'audio' %}AUDIO{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TEXT_CONFIG = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": None,
}


def granite_speech(tokenizer, text_config):
    audio = "<|audio|>"
    processor = GraniteSpeechProcessor(
        GraniteSpeechFeatureExtractor(), with_token(tokenizer, audio), chat_template=TEMPLATE.replace("AUDIO", audio)
    )
    config = GraniteSpeechConfig(
        text_config={"model_type": "granite", **text_config, "vocab_size": len(tokenizer)},
        encoder_config={
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
        },
        projector_config={
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
        },
        audio_token_index=tokenizer.convert_tokens_to_ids(audio),
        has_lora_adapter=False,
        downsample_rate=5,
        window_size=15,
        tie_word_embeddings=False,
    )
    return processor, config, GraniteSpeechForConditionalGeneration


def audioflamingo3(tokenizer, text_config):
    audio = "<sound>"
    processor = AudioFlamingo3Processor(
        WhisperFeatureExtractor(feature_size=32, chunk_length=30),
        with_token(tokenizer, audio),
        chat_template=TEMPLATE.replace("AUDIO", audio),
    )
    config = AudioFlamingo3Config(
        text_config={"model_type": "qwen2", **text_config, "vocab_size": len(tokenizer)},
        audio_config={
            "model_type": "audioflamingo3_encoder",
            "num_mel_bins": 32,
            "hidden_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 192,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids(audio),
        tie_word_embeddings=False,
    )
    return processor, config, AudioFlamingo3ForConditionalGeneration


def with_token(tokenizer, token: str):
    tokenizer.add_special_tokens({"additional_special_tokens": [token]}, replace_extra_special_tokens=False)
    return tokenizer


def build(model_type: str, tokenizer_folder: Path, out: Path) -> None:
    """Write a folder laid out as models of the family are on the hub."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    processor, config, model_class = globals()[model_type](tokenizer, {**TEXT_CONFIG, **ends})
    config.architectures = [model_class.__name__]
    config.dtype = "float32"
    torch.manual_seed(0)
    model = model_class(config)
    model.generation_config.update(**ends)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                weight.normal_(0, 0.5 if "projector.linear" in name else 0.08)
        for name, statistic in model.named_buffers():
            # Those of a trained BatchNorm are not 0 and 1.
            if "running" in name:
                statistic.uniform_(0.5, 1.5)
    out.mkdir(parents=True, exist_ok=True)
    rename = FAMILIES[model_type].checkpoint_name
    weights = {rename(name): weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    processor.save_pretrained(out)


if __name__ == "__main__":
    build(sys.argv[1], *map(Path, sys.argv[2:]))
