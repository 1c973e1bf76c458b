"""A tiny random Granite Speech: the real classes, from a small config.

python tests/models/tiny_granite.py PROCESSOR_FOLDER OUT        (the tokenizer is the tiny Qwen2-Audio's)
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import verl_leaf.patches.granite_mel as granite_mel

granite_mel.install()

from transformers import (  # noqa: E402
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
    PreTrainedTokenizerFast,
)

AUDIO = "<|audio|>"
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'audio' %}<|audio|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
HUB_NAMES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.encoder.": "encoder.",
    "model.projector.": "projector.",
}


def build(tokenizer_folder: Path, out: Path) -> None:
    """Write a folder laid out as Granite Speech is on the hub."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [AUDIO]}, replace_extra_special_tokens=False)
    processor = GraniteSpeechProcessor(GraniteSpeechFeatureExtractor(), tokenizer, chat_template=TEMPLATE)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = GraniteSpeechConfig(
        text_config={
            "model_type": "granite",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            **ends,
        },
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
        audio_token_index=tokenizer.convert_tokens_to_ids(AUDIO),
        has_lora_adapter=False,
        downsample_rate=5,
        window_size=15,
        tie_word_embeddings=False,
        **ends,
    )
    config.architectures = [GraniteSpeechForConditionalGeneration.__name__]
    config.dtype = "float32"
    torch.manual_seed(0)
    model = GraniteSpeechForConditionalGeneration(config)
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
    weights = {}
    for name, weight in model.state_dict().items():
        here = next(prefix for prefix in HUB_NAMES if name.startswith(prefix))
        weights[HUB_NAMES[here] + name.removeprefix(here)] = weight.contiguous()
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    processor.save_pretrained(out)


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
