"""One Qwen2-Audio from SmolLM2, Whisper's encoder and the bridge between them."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Qwen2AudioConfig, Qwen2AudioProcessor

from examples.real_speech.convert import SmolLM2, Weights, Whisper, load
from examples.real_speech.parts import Parts
from verl_leaf.common.files import whole_file
from verl_leaf.models import tiny
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO
from verl_leaf.models.qwen2_audio.hf import Qwen2AudioForConditionalGeneration

PROJECTOR = "multi_modal_projector.linear"
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part['text'] }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Without the system prompt that SmolLM2's own template adds: a clip of 2 s has as many tokens."""


def assemble(parts: Parts) -> tuple[Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor]:
    """Return the model, float32, whose projector is random, and its processor."""
    smollm2, whisper = SmolLM2(parts), Whisper(parts)
    processor = Qwen2AudioProcessor(whisper.extractor(), smollm2.tokenizer(), chat_template=TEMPLATE)
    ends = tiny.end_tokens(processor.tokenizer)
    config = Qwen2AudioConfig(
        text_config={**smollm2.config(), **ends},
        audio_config={"model_type": "qwen2_audio_encoder", **whisper.config()},
        audio_token_index=processor.tokenizer.convert_tokens_to_ids(processor.audio_token),
        tie_word_embeddings=False,
    )
    config.update(ends)
    config.architectures = list(QWEN2_AUDIO.architectures)
    config.dtype = "float32"
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(config)
    weights = {f"language_model.{name}": weight for name, weight in smollm2.weights().items()}
    weights |= {f"audio_tower.{name}": weight for name, weight in whisper.encoder().items()}
    load(model, weights, (f"{PROJECTOR}.weight", f"{PROJECTOR}.bias"), QWEN2_AUDIO.checkpoint_name)
    return model.eval(), processor


def read_bridge(path: Path) -> tuple[Weights, dict[str, str]]:
    """Return the tensors of a bridge and what is recorded about its training."""
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


def write_bridge(path: Path, tensors: Weights, record: dict[str, str]) -> None:
    """Write a bridge in bfloat16."""
    with whole_file(path) as partial:
        save_file({name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}, partial, record)


def cross(model: Qwen2AudioForConditionalGeneration, bridge: Weights) -> None:
    """Put a bridge into the model of :func:`assemble`: replace the projector, add the low-rank products to the weights.

    Args:
        model: the model.
        bridge: by the names in checkpoint files: ``NAME`` of a parameter; ``NAME.lora_A`` ``[rank, in]`` and
            ``NAME.lora_B`` ``[out, rank]`` of a parameter that ``lora_B @ lora_A`` is added to.

    Raises:
        KeyError: the model lacks a parameter of the bridge.
    """
    parameters = {QWEN2_AUDIO.checkpoint_name(name): parameter for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for name, tensor in bridge.items():
            weight, _, part = name.partition(".lora_")
            if part == "A":
                parameters[weight].add_(bridge[f"{weight}.lora_B"].float() @ tensor.float())
            elif not part:
                parameters[weight].copy_(tensor)
