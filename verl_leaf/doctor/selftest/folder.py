"""Folders of tiny random models, laid out as models of their family are on the hub."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AudioFlamingo3Processor,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechProcessor,
    PreTrainedTokenizerFast,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from verl_leaf.doctor.selftest import configs
from verl_leaf.models import FAMILIES

END, PAD = "<|im_end|>", "<|endoftext|>"
SPECIAL = ("<|im_start|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|audio|>", "<sound>")
OMNI = {
    "audio_token": "<|AUDIO|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'audio' %}AUDIO{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, and the special ones of every family."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL),
        padding_side="left",
        model_max_length=4096,
    )


def qwen2_audio(tokenizer: PreTrainedTokenizerFast):
    # vLLM insists on 3,000 mel frames, so the window stays 30 s.
    return Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=32, chunk_length=30), tokenizer)


def granite_speech(tokenizer: PreTrainedTokenizerFast):
    template = TEMPLATE.replace("AUDIO", "<|audio|>")
    return GraniteSpeechProcessor(GraniteSpeechFeatureExtractor(), tokenizer, chat_template=template)


def audioflamingo3(tokenizer: PreTrainedTokenizerFast):
    extractor = WhisperFeatureExtractor(feature_size=32, chunk_length=30)
    return AudioFlamingo3Processor(extractor, tokenizer, chat_template=TEMPLATE.replace("AUDIO", "<sound>"))


def qwen2_5_omni(tokenizer: PreTrainedTokenizerFast):
    from transformers import Qwen2_5OmniProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    extractor = WhisperFeatureExtractor(feature_size=32, chunk_length=300, return_attention_mask=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=OMNI,
        padding_side="left",
        model_max_length=tokenizer.model_max_length,
    )
    template = TEMPLATE.replace("AUDIO", "<|audio_bos|><|AUDIO|><|audio_eos|>")
    return Qwen2_5OmniProcessor(
        Qwen2VLImageProcessor(), Qwen2VLVideoProcessor(), extractor, tokenizer, chat_template=template
    )


PROCESSORS = {
    "qwen2_audio": qwen2_audio,
    "granite_speech": granite_speech,
    "audioflamingo3": audioflamingo3,
    "qwen2_5_omni": qwen2_5_omni,
}
OTHERS = {"qwen2_5_omni": list(OMNI.values())[1:]}  # what a configuration asks for besides the placeholder of audio


def write_folder(model_type: str, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """Write a random model of a family, in float32.

    Args:
        model_type: of the family.
        folder: to write.
        tokenizer: with the family's placeholder of audio; by default one of bytes.
    """
    import transformers

    family = FAMILIES[model_type]
    processor = PROCESSORS[model_type](tokenizer or byte_tokenizer())
    tokenizer = processor.tokenizer
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {**configs.TEXT, **ends, "vocab_size": len(tokenizer)}
    others = tokenizer.convert_tokens_to_ids(OTHERS.get(model_type, []))
    config = configs.BUILD[model_type](text, family.audio_token_id(processor), *others)
    config.architectures = [family.architectures[0]]
    config.dtype = "float32"
    torch.manual_seed(0)
    model = getattr(transformers, family.architectures[-1])(config)
    model.generation_config.update(**ends)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                weight.normal_(0, 0.5 if "projector.linear" in name else 0.08)
        for name, statistic in model.named_buffers():
            if "running" in name:
                statistic.uniform_(0.5, 1.5)  # those of a trained BatchNorm are not 0 and 1
    folder.mkdir(parents=True, exist_ok=True)
    weights = {family.checkpoint_name(name): weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    if model_type == "qwen2_5_omni":
        torch.save({}, folder / "spk_dict.pt")  # the talker's voices, without which transformers loads no whole model
