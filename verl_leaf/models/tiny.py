"""Tiny random models with the layout of their family on the hub. ``NAME/tiny.py`` contains the parts of a family:

- ``TOKENS``: its special tokens;
- ``build_config(text, ids)``: the configuration, from the settings of the text model and the ids of the special tokens;
- ``build_processor(tokenizer)``: the processor, with a tokenizer that has the special tokens;
- ``random_audio(seconds)``: random features of a clip, and their number of audio tokens;
- ``FILES``, if needed: further files of a checkpoint, and the objects that torch saves in them.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    WhisperFeatureExtractor,
)

from verl_leaf.models.family import Family
from verl_leaf.models.shapes import padded_length
from verl_leaf.models.whisper import pooled_frames

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
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
WHISPER = {"num_mel_bins": 32, "d_model": 96, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 192}
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'audio' %}AUDIO{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = byte_level(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    return fast_tokenizer(bpe, additional_special_tokens=[START])


def byte_level(bpe: models.BPE) -> Tokenizer:
    """Return a tokenizer whose characters are bytes."""
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def fast_tokenizer(bpe: Tokenizer, **special_tokens) -> PreTrainedTokenizerFast:
    """Return transformers' tokenizer around a byte-level BPE tokenizer."""
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        model_max_length=TEXT["max_position_embeddings"],
        **special_tokens,
    )


def whisper_extractor(seconds: int = 30, **settings) -> WhisperFeatureExtractor:
    """Return a feature extractor for :data:`WHISPER`; its window in seconds is the real one, because vLLM requires it."""
    return WhisperFeatureExtractor(feature_size=WHISPER["num_mel_bins"], chunk_length=seconds, **settings)


def whisper_features(mask_name: str, seconds: float) -> tuple[dict[str, torch.Tensor], int]:
    """Return random features with a little silence at the end, as from an extractor, and their number of audio tokens."""
    frames = int(100 * seconds)
    mask = (torch.arange(min(padded_length(frames + 2), 3000)) < frames).int()[None]
    generator = torch.Generator().manual_seed(int(1000 * seconds))
    mel = torch.randn(1, WHISPER["num_mel_bins"], mask.shape[1], generator=generator)
    return {"input_features": mel, mask_name: mask}, pooled_frames(frames)


def build_config(family: Family, processor: ProcessorMixin, **text) -> PreTrainedConfig:
    """Return the configuration of a tiny model for a processor; ``text`` are further settings of the text model."""
    tokenizer = processor.tokenizer
    ids = dict(zip(family.tiny.TOKENS, tokenizer.convert_tokens_to_ids(family.tiny.TOKENS), strict=True))
    text = {**TEXT, **end_tokens(tokenizer), "vocab_size": len(tokenizer), **text}
    config = family.tiny.build_config(text, ids)
    config.architectures = [family.architectures[0]]
    config.dtype = "float32"
    return config


def end_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Return the settings of a configuration that name a tokenizer's end and padding tokens."""
    return {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}


def write_random(family: Family, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """Write a random model of a family in float32; the tokenizer (default: one of bytes) gets the family's tokens."""
    import transformers

    tokenizer = tokenizer or byte_tokenizer()
    special = {"additional_special_tokens": list(family.tiny.TOKENS)}
    tokenizer.add_special_tokens(special, replace_extra_special_tokens=False)
    processor = family.tiny.build_processor(tokenizer)
    torch.manual_seed(0)
    model = getattr(transformers, family.architectures[-1])(build_config(family, processor))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                weight.normal_(0, 0.5 if "projector.linear" in name else 0.08)
        for name, statistic in model.named_buffers():
            if "running" in name:
                statistic.uniform_(0.5, 1.5)  # a trained BatchNorm's statistics are not 0 and 1
    save(family, model, processor, folder)


def save(family: Family, model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Save a model in the hub's layout, which transformers, verl and vLLM all load.

    transformers 5.10.4 ``save_pretrained`` writes weights with names (``language_model.model.model.*``) that neither
    the hub nor vLLM knows.
    """
    from verl.workers.engine.fsdp.utils import unfuse_moe_params

    folder.mkdir(parents=True, exist_ok=True)
    unfused = unfuse_moe_params(model.state_dict().items())
    weights = {family.checkpoint_name(name): weight.contiguous() for name, weight in unfused}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    model.generation_config.update(**end_tokens(processor.tokenizer))
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    for name, content in getattr(family.tiny, "FILES", {}).items():
        torch.save(content, folder / name)
