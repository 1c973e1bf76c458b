"""A tiny Qwen2-Audio: the real classes, from a small config, with a tokenizer of a few hundred tokens."""

import itertools
from collections.abc import Iterable

import torch
from tokenizers import models, pre_tokenizers, trainers
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor
from transformers.models.whisper.modeling_whisper import sinusoids

from examples.spoken_german import phrases
from verl_leaf.models import tiny
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO

VOCABULARY = 512
GERMAN = tuple(f" {word}" for slot in phrases.SLOTS.values() for word in itertools.chain(*slot.values()))


def build_processor(
    instructions: Iterable[str] = (phrases.INSTRUCTION,), words: Iterable[str] = GERMAN, vocabulary: int = VOCABULARY
) -> Qwen2AudioProcessor:
    """Return a processor with Qwen2-Audio's special tokens and chat template, and byte-level BPE learnt from the words."""
    template = ["system\n", "user\n", "assistant\n", "You are a helpful assistant.", "Audio 1: ", *instructions]
    bpe = tiny.byte_level(models.BPE())
    bpe.train_from_iterator(
        4 * template + list(words),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[tiny.PAD, tiny.START, tiny.END, *QWEN2_AUDIO.tiny.TOKENS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    special = [tiny.START, *QWEN2_AUDIO.tiny.TOKENS]
    return QWEN2_AUDIO.tiny.build_processor(tiny.fast_tokenizer(bpe, additional_special_tokens=special))


def build_model(
    processor: Qwen2AudioProcessor, seed: int = 0, hidden: int = 128, layers: int = 2
) -> Qwen2AudioForConditionalGeneration:
    """Return a random Qwen2-Audio, of about 0.8 million parameters unless its language model is made larger.

    0.14 million of them are the encoder's table of positions.
    """
    config = tiny.build_config(
        QWEN2_AUDIO, processor, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers
    )
    config.update(tiny.end_tokens(processor.tokenizer))
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(config)
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
    """Return the encoder, which transformers 5.9 keeps beside the language model and 5.10 in a model with it."""
    return getattr(model, "model", model).audio_tower


def make_audible(model: Qwen2AudioForConditionalGeneration) -> None:
    """Scale random weights up, so that the answers of an untrained model depend clearly on the audio."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 and "embed_positions" not in name:
                weight.normal_(0, 0.5 if "multi_modal_projector" in name else 0.08)
