"""A tiny Qwen2-Audio: the real classes, from a small config, with a tokenizer of a few hundred tokens."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import sinusoids

from examples.spoken_german import phrases
from examples.spoken_german.synthesis import SAMPLE_RATE

VOCABULARY = 512
END = "<|im_end|>"
PAD = "<|endoftext|>"
SPECIAL = (PAD, "<|im_start|>", END, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
GERMAN = tuple(f" {word}" for slot in phrases.SLOTS.values() for word in itertools.chain(*slot.values()))

_HUB_NAMES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


def build_processor(
    instructions: Iterable[str] = (phrases.INSTRUCTION,), words: Iterable[str] = GERMAN, vocabulary: int = VOCABULARY
) -> Qwen2AudioProcessor:
    """A processor with Qwen2-Audio's special tokens and chat template, and byte-level BPE learnt from the words."""
    template = ["system\n", "user\n", "assistant\n", "You are a helpful assistant.", "Audio 1: ", *instructions]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        4 * template + list(words),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[token for token in SPECIAL if token not in (END, PAD)],
        padding_side="left",
        model_max_length=4096,
    )
    # vLLM insists on 3,000 mel frames, so the window stays 30 s.
    extractor = WhisperFeatureExtractor(feature_size=32, sampling_rate=SAMPLE_RATE, chunk_length=30)
    return Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer)


def build_model(
    processor: Qwen2AudioProcessor, seed: int = 0, hidden: int = 128, layers: int = 2
) -> Qwen2AudioForConditionalGeneration:
    """A random Qwen2-Audio, of some 0.8 million parameters unless its language model is made larger.

    0.14 million of them are the encoder's table of positions.
    """
    tokenizer = processor.tokenizer
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": processor.feature_extractor.feature_size,
            "d_model": 96,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 192,
            "max_source_positions": processor.feature_extractor.nb_max_frames // 2,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": tokenizer.model_max_length,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            **ends,
        },
        audio_token_index=processor.audio_token_id,
        tie_word_embeddings=False,
        **ends,
    )
    config.architectures = [Qwen2AudioForConditionalGeneration.__name__]
    config.dtype = "float32"
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(config)
    model.generation_config.update(**ends)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_positions" in name:
                weight.copy_(sinusoids(*weight.shape))
            elif "embed_tokens" in name:
                weight.normal_(0, 0.1)
            elif weight.dim() >= 2 and "lm_head" not in name:
                # The usual 0.02 is for wide layers: in narrow ones the sound would drown in the positions.
                weight.normal_(0, weight[0].numel() ** -0.5)
    return model


def audio_tower(model: Qwen2AudioForConditionalGeneration) -> torch.nn.Module:
    """The encoder, which transformers 5.9 keeps beside the language model and 5.10 in a model with it."""
    return getattr(model, "model", model).audio_tower


def make_audible(model: Qwen2AudioForConditionalGeneration) -> None:
    """Scales random weights up, so that what an untrained model says depends clearly on what it hears."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 and "embed_positions" not in name:
                weight.normal_(0, 0.5 if "multi_modal_projector" in name else 0.08)


def save_hub_layout(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, folder: str | Path
) -> None:
    """Saves a folder laid out as Qwen2-Audio is on the hub, which transformers, verl and vLLM all load.

    transformers 5.10.4 `save_pretrained` writes this model's weights under names (`language_model.model.model.*`)
    that neither the hub nor vLLM knows, hence the hub's names are written here.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {_hub_name(name): weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)


def _hub_name(name: str) -> str:
    if name.startswith(tuple(_HUB_NAMES.values())):  # as transformers 5.9 has it
        return name
    for here, hub in _HUB_NAMES.items():
        if name.startswith(here):
            return hub + name.removeprefix(here)
    raise KeyError(f"no hub name for the weight {name}")
