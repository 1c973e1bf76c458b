"""Tiny random models of every family as actors, and rollouts with random audio.

This file needs only torch, transformers and peft.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from verl_leaf.models import FAMILIES, Family
from verl_leaf.models.tiny import TEXT
from verl_leaf.training.sharing.log_probs import log_probs
from verl_leaf.training.sharing.pack import Packed, pack

VOCABULARY = 512
AUDIO_TOKEN = 5


def build(
    family: str, dtype: torch.dtype = torch.float32, device: str = "cpu", checkpointing: bool = False
) -> PeftModel:
    """Return a random model as FSDP runs it: parameters in ``dtype``, buffers in float32, LoRA, training mode."""
    family = FAMILIES[family]
    ids = {token: id for id, token in enumerate(family.tiny.TOKENS, AUDIO_TOKEN)}
    config = family.tiny.build_config({**TEXT, "vocab_size": VOCABULARY}, ids)
    model = family.load_hf_class()._from_config(config, attn_implementation=family.attn_implementation)
    randomise(model, family)
    return as_actor(model, family, dtype, device, checkpointing)


def randomise(model: torch.nn.Module, family: Family) -> None:
    """Set random weights with which a model's output depends on all of its input."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                weight.normal_(0, weight[0].numel() ** -0.5, generator=generator(name, family))
        for name, statistic in model.named_buffers():
            if "running" in name:  # a trained BatchNorm's statistics are not 0 and 1
                statistic.uniform_(0.5, 1.5, generator=generator(name, family))


def generator(name: str, family: Family) -> torch.Generator:
    """Return a generator seeded by a weight's hub name, because transformers' versions differ in the order of weights."""
    return torch.Generator().manual_seed(zlib.crc32(family.checkpoint_name(name).encode()))


def as_actor(
    model: PreTrainedModel, family: Family, dtype: torch.dtype, device: str, checkpointing: bool = False
) -> PeftModel:
    """Return a model with a random adapter, in training mode."""
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    lora = LoraConfig(r=8, lora_alpha=8, target_modules=list(family.lora_targets), exclude_modules=family.lora_exclude)
    model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                std = 0.1 if "lora_B" in name else (3 * weight.shape[1]) ** -0.5  # peft's value for A
                weight.normal_(0, std, generator=generator(name.removeprefix("base_model.model."), family))
            weight.data = weight.data.to(dtype)
    return model.to(device).train()


@dataclass
class Rollouts:
    """Sequences that end in a response, the lengths of their prompts, and their audio, which rollouts share."""

    sequences: list[np.ndarray]
    prompt_lengths: list[int]
    audio: list[dict[str, torch.Tensor]]

    def pack(self, share: bool) -> Packed:
        roots = [id(features) for features in self.audio] if share else range(len(self.sequences))
        return pack(self.sequences, self.prompt_lengths, roots, pad=0)


def rollouts(family: str, prompts: tuple[tuple[float, int], ...], length: int = 12, device: str = "cpu") -> Rollouts:
    """Return rollouts of random prompts, given as pairs of seconds of audio and number of rollouts."""
    generator = np.random.default_rng(0)
    result = Rollouts([], [], [])
    for seconds, count in prompts:
        audio, tokens = FAMILIES[family].tiny.random_audio(seconds)
        audio = {name: value.to(device) for name, value in audio.items()}
        prompt = [7, 8] + [AUDIO_TOKEN] * tokens + generator.integers(10, VOCABULARY, 5).tolist()
        for _ in range(count):
            response = generator.integers(10, VOCABULARY, length).tolist()
            result.sequences.append(np.array(prompt + response))
            result.prompt_lengths.append(len(prompt))
            result.audio.append(audio)
    return result


def response_log_probs(model: PeftModel, rollouts: Rollouts, share: bool) -> torch.Tensor:
    """Return the log-probabilities of all response tokens in the order of the rollouts, float32 ``[tokens]``."""
    packed = rollouts.pack(share)
    device = next(model.parameters()).device
    mask = packed.attention_mask(device)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=next(model.parameters()).dtype == torch.bfloat16)
    keys = model.get_base_model().feature_cache.hold([rollouts.audio[first] for first in packed.first])
    with mixed:
        logits = model(
            input_ids=packed.input_ids.to(device),
            attention_mask=None if mask is None else mask[:, None],
            position_ids=packed.position_ids.to(device),
            features_key=keys.to(device),
        ).logits.flatten(0, 1)
    values = log_probs(logits, packed.logit_index.to(device), packed.target_ids.to(device))
    return values[packed.target_index.argsort().to(device)]


def gradients(model: PeftModel, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of a weighted sum of the values, by parameter."""
    model.zero_grad()
    (torch.linspace(-1, 2, len(values), device=values.device) * values).sum().backward()
    return {name: weight.grad.float() for name, weight in model.named_parameters() if weight.grad is not None}


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the relative norm of the difference of two sets of gradients."""
    assert ours.keys() == theirs.keys() and ours
    difference = torch.stack([(ours[name] - theirs[name]).norm() for name in ours]).norm()
    return (difference / torch.stack([gradient.norm() for gradient in theirs.values()]).norm()).item()
