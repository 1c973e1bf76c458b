"""Tiny random models of the other families: the real classes, from small configs, laid out as on the hub.

python -m tests.helpers.tiny_models FAMILY PROCESSOR_FOLDER OUT        (the tokenizer is the tiny Qwen2-Audio's)
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.helpers import tiny_configs
from verl_leaf import patches
from verl_leaf.models import FAMILIES

patches.install()

from transformers import (  # noqa: E402  (after the patches)
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
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


def granite_speech(tokenizer):
    audio = "<|audio|>"
    processor = GraniteSpeechProcessor(
        GraniteSpeechFeatureExtractor(), with_token(tokenizer, audio), chat_template=TEMPLATE.replace("AUDIO", audio)
    )
    return processor, audio, GraniteSpeechForConditionalGeneration


def audioflamingo3(tokenizer):
    audio = "<sound>"
    processor = AudioFlamingo3Processor(
        WhisperFeatureExtractor(feature_size=32, chunk_length=30),
        with_token(tokenizer, audio),
        chat_template=TEMPLATE.replace("AUDIO", audio),
    )
    return processor, audio, AudioFlamingo3ForConditionalGeneration


def with_token(tokenizer, token: str):
    tokenizer.add_special_tokens({"additional_special_tokens": [token]}, replace_extra_special_tokens=False)
    return tokenizer


def build(model_type: str, tokenizer_folder: Path, out: Path) -> None:
    """Write a folder laid out as models of the family are on the hub."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    processor, audio, model_class = globals()[model_type](tokenizer)
    text = {**tiny_configs.TEXT, **ends, "vocab_size": len(tokenizer)}
    config = tiny_configs.BUILD[model_type](text, tokenizer.convert_tokens_to_ids(audio))
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
