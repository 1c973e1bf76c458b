"""The families' models in the shapes of the hub's config.json, without weights, and the memory of a micro-batch."""

import inspect
import weakref

import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoConfig, PreTrainedConfig

from verl_leaf.checks.memory import build_network
from verl_leaf.models import Family
from verl_leaf.models.shapes import padded_length
from verl_leaf.training.sharing.log_probs import log_probs

WHISPER = {
    "num_mel_bins": 128,
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "max_source_positions": 1500,
}
VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


def qwen2(vocabulary: int, hidden: int, inner: int, layers: int, heads: int, key_heads: int) -> dict:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    }


SHAPES = {
    "qwen2_audio": {
        "audio_config": {"model_type": "qwen2_audio_encoder", **WHISPER},
        "text_config": {"model_type": "qwen2", **qwen2(156032, 4096, 11008, 32, 32, 32)},
        "tie_word_embeddings": False,
    },
    "audioflamingo3": {
        "audio_config": {"model_type": "audioflamingo3_encoder", **WHISPER},
        "text_config": {"model_type": "qwen2", **qwen2(151672, 3584, 18944, 28, 28, 4)},
        "tie_word_embeddings": False,
    },
    "granite_speech": {
        "encoder_config": {
            "model_type": "granite_speech_encoder",
            "input_dim": 160,
            "num_layers": 16,
            "hidden_dim": 1024,
            "feedforward_mult": 4,
            "num_heads": 8,
            "dim_head": 128,
            "output_dim": 348,
            "context_size": 200,
            "max_pos_emb": 512,
            "conv_kernel_size": 15,
            "conv_expansion_factor": 2,
        },
        "projector_config": {
            "model_type": "blip_2_qformer",
            "hidden_size": 1024,
            "num_hidden_layers": 2,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "encoder_hidden_size": 1024,
            "cross_attention_frequency": 1,
        },
        "text_config": {"model_type": "granite", **qwen2(49160, 4096, 12800, 40, 32, 8), "tie_word_embeddings": True},
        "tie_word_embeddings": True,
        "has_lora_adapter": False,
    },
    "qwen2_5_omni": {
        "thinker_config": {
            "audio_config": {**WHISPER, "output_dim": 2048},
            "vision_config": {**VISION, "out_hidden_size": 2048},
            "text_config": {
                **qwen2(151936, 2048, 11008, 36, 16, 2),
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
            },
        },
        "tie_word_embeddings": False,
    },
    "qwen3_omni_moe": {
        "thinker_config": {
            "audio_config": {
                **WHISPER,
                "output_dim": 2048,
                "n_window": 50,
                "n_window_infer": 800,
                "downsample_hidden_size": 480,
            },
            "vision_config": {
                "depth": 27,
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_heads": 16,
                "out_hidden_size": 2048,
            },
            "text_config": {
                **qwen2(152064, 2048, 768, 48, 32, 4),
                "head_dim": 128,
                "num_experts": 128,
                "num_experts_per_tok": 8,
                "moe_intermediate_size": 768,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [24, 20, 20]},
            },
        },
        "enable_audio_output": False,
        "tie_word_embeddings": False,
    },
}


class Peak(TorchDispatchMode):
    """Mode that records the peak of the bytes of tensors made while it is on, besides those of a model."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.bytes = self._now = 0
        weights = [*model.parameters(), *model.buffers()]
        self._known = WeakIdKeyDictionary({each.untyped_storage(): True for each in weights})

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known[storage] = True
                self._now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.bytes = max(self.bytes, self._now)
        return result

    def _free(self, size: int) -> None:
        self._now -= size


def build_config(family: Family, layers: int | None = None, **settings) -> PreTrainedConfig:
    """Return the configuration of a family's model on the hub, with ``layers`` layers in every part if given."""
    config = AutoConfig.for_model(family.model_type, **SHAPES[family.model_type], **settings)
    config.architectures = [family.architectures[0]]
    if layers is not None:
        text = config.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
        outer = getattr(config, "thinker_config", config)
        for part, name in (
            ("audio_config", "encoder_layers"),
            ("encoder_config", "num_layers"),
            ("vision_config", "depth"),
        ):
            if hasattr(outer, part):
                setattr(getattr(outer, part), name, layers)
    return config


def bytes_of_micro_batch(
    family: Family, config: PreTrainedConfig, rows: int, prompt: int, responses: int, length: int
) -> int:
    """Trace forward pass, log-probabilities and backward pass of a micro-batch, with no memory and no arithmetic.

    Args:
        family, config: of the model, which is in bf16 with LoRA and gradient checkpointing, as FSDP computes it.
        rows: after packing; each has the same number of responses.
        prompt: tokens of a prompt.
        responses: all in all.
        length: tokens of a response.

    Returns:
        Bytes at the peak, without weights and their gradients.
    """
    each = responses // rows * length
    width = padded_length(prompt + each)
    base = build_network(config, family, dtype=torch.bfloat16)
    with torch.device("meta"):
        targets = LoraConfig(r=64, target_modules=list(family.lora_targets), exclude_modules=family.lora_exclude)
        model = get_peft_model(base, targets).train()
    model.enable_input_require_grads()
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with FakeTensorMode():
        _make_fake(model)
        with Peak(model) as peak:
            inputs = {
                "input_ids": torch.zeros(rows, width, dtype=torch.int64),
                "position_ids": torch.arange(width).expand(rows, width),
                "attention_mask": None if rows == responses else torch.zeros(rows, 1, width, width, dtype=torch.bool),
            }
            kept = width
            if "logits_to_keep" in inspect.signature(base.forward).parameters:
                kept = inputs["logits_to_keep"] = width - prompt + 1
            places = (torch.arange(rows)[:, None] * kept + kept - each - 1 + torch.arange(each)).flatten()
            _log_probs(model, inputs, places).sum().backward()
    return peak.bytes


def _log_probs(model: torch.nn.Module, inputs: dict, places: torch.Tensor) -> torch.Tensor:
    """Compute log-probabilities here so that, as in verl, logits are gone when the layers' backward passes begin."""
    return log_probs(model(**inputs).logits.flatten(0, 1), places, torch.zeros_like(places))


def _make_fake(model: torch.nn.Module) -> None:
    """Give a model on the meta device parameters and buffers on a CPU that has no memory, parameters in bf16."""
    old = [*model.parameters(), *model.buffers()]
    new = {id(each): _fake(each) for each in old}
    for module in model.modules():
        for tensors in module._parameters, module._buffers:
            tensors.update({name: new[id(each)] for name, each in tensors.items() if each is not None})


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, torch.nn.Parameter):
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    weight = torch.nn.Parameter(torch.empty(tensor.shape, dtype=torch.bfloat16), tensor.requires_grad)
    if weight.requires_grad:  # FSDP reduces a gradient when it is complete
        weight.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))
    return weight
