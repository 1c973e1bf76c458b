"""Estimates of the memory that a run needs, computed from its configuration without loading weights.

The estimates, in GiB, are for a GPU while generating and while updating, for a host, and for a checkpoint. They leave out
fragmentation and the libraries' own allocations, except for the constants below.
"""

import inspect
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from verl_leaf.checks.gpus import gpu_memory
from verl_leaf.checks.model import model_config
from verl_leaf.models import FAMILIES, Family
from verl_leaf.models.shapes import padded_length
from verl_leaf.training.sharing import SHARE_PROMPTS
from verl_leaf.training.sharing.log_probs import TOKENS
from verl_leaf.training.sharing.pack import Layout, cheaper

logger = logging.getLogger("verl.leaf")  # verl's handler serves only loggers below "verl"

GIB = 2**30
CARD = 79.1  # GiB of an 80 GB GPU
UNSURE = 1.15  # an estimate may exceed the real need by this factor
IN_TWO_BYTES = ("bf16", "bfloat16", "fp16", "float16", "16")  # verl's names of dtypes (utils/torch_dtypes.py)
CONTEXTS = 1.5  # GiB for the CUDA contexts and NCCL buffers of the actor's and vLLM's processes
SLEEPING_VLLM = 2.0  # GiB that vLLM keeps on the GPU while it sleeps: graphs and workspaces
# Bytes per token of one recomputed layer, forward and backward, per unit of its hidden size and of its MLP's size. Fitted to
# the traces of tests/helpers/true_shapes.py; tests compare the estimates with them.
OF_WIDTH, OF_MLP = 24, 12
# Copies of a token's hidden state for each of its experts, in units of OF_MLP; fitted to traces, too.
COPIES = 1.0
CACHE = 2.0  # GiB, the least that vLLM needs besides its weights
# Sizes of CUDA segments in torch's allocator (c10/cuda/CUDACachingAllocator.cpp): a tensor of up to SMALL is in a segment of
# SMALL_SEGMENT, one of up to MEDIUM is in a segment of MEDIUM_SEGMENT, and a larger tensor has its own segment.
SMALL, SMALL_SEGMENT = 2**20, 2**21
MEDIUM, MEDIUM_SEGMENT = 10 * 2**20, 20 * 2**20
MERGED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layers that vLLM merges into one


@dataclass(frozen=True)
class Part:
    """A part of an estimate: its name, its GiB, and how the number was computed."""

    what: str
    gib: float
    how: str


@dataclass(frozen=True)
class Estimate:
    """The memory that one GPU or host needs at one time."""

    name: str
    parts: Sequence[Part]  # amounts that add up to it
    remedies: Sequence[str] = ()  # settings that would reduce it, the most effective first

    @property
    def gib(self) -> float:
        return sum(part.gib for part in self.parts)

    @property
    def on_gpu(self) -> bool:
        return "GPU" in self.name

    def in_words(self) -> str:
        return "; ".join(f"{part.gib:.1f} {part.what} ({part.how})" for part in self.parts if part.gib)


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a model, as counted on the meta device."""

    parameters: int  # parameters of the whole model
    lora: int  # parameters of the adapter, or 0 if all weights are trained
    layer: int  # parameters of the largest layer of the language model
    outside: int  # parameters outside these layers (embeddings, head, audio encoder), which FSDP gathers together
    tensors: tuple[int, ...]  # parameters of each tensor, merged as in vLLM
    # Sizes of the language model.
    layers: int
    hidden: int
    mlp: int
    vocabulary: int
    leaves_out_logits: bool  # True if the logits of the prompt need not be computed
    # Copies of all logits in a backward pass: the logits, their gradient, and Granite's unscaled gradient.
    logit_copies: int
    tied: bool  # True if embeddings and output layer are one tensor

    @property
    def trained(self) -> int:
        return self.lora or self.parameters


def build_network(config, family: Family | None, **settings) -> Any:
    """Build a model without weights; ``settings`` are those of :meth:`transformers.PreTrainedModel._from_config`."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        if family is None:
            return AutoModelForCausalLM.from_config(config, **settings)
        model_class: Any = family.load_hf_class()
        return model_class._from_config(config, attn_implementation=family.attn_implementation, **settings)


def lora_layers(
    network: torch.nn.Module, targets: Sequence[str] | str, exclude: Sequence[str] | str | None
) -> dict[str, torch.nn.Linear]:
    """Return by name the layers that get LoRA, chosen as in PEFT (tuners_utils.py check_target_module_exists).

    ``targets`` and ``exclude`` are the last parts of the layers' names, or a regular expression of the whole names.
    ``targets`` may also be ``all-linear``.
    """
    everything = isinstance(targets, str) and targets.lower() == "all-linear"
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and (name != "lm_head" if everything else _is_named(name, targets))
        and not (exclude and _is_named(name, exclude))
    }


def _is_named(name: str, by: Sequence[str] | str) -> bool:
    if isinstance(by, str):
        return re.fullmatch(by, name) is not None
    return any(f".{name}".endswith(f".{end}") for end in by)


def model_size(network: Any, lora: Sequence[torch.nn.Linear], rank: int) -> ModelSize:
    """Count the parameters of a :class:`verl_leaf.models.actor.SpeechActor` or a text model, on any device (also meta).

    The rank of LoRA is 0 if all weights are trained.
    """

    def count(module: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    layers = network.decoder_layers if hasattr(network, "decoder_layers") else network.get_decoder().layers
    sizes, parameters, text = [count(layer) for layer in layers], count(network), network.config.get_text_config()
    return ModelSize(
        parameters=parameters,
        lora=sum(rank * (layer.in_features + layer.out_features) for layer in lora),
        layer=max(sizes),
        outside=parameters - sum(sizes),
        tensors=_merged(network),
        layers=len(sizes),
        hidden=text.hidden_size,
        mlp=_mlp_width(text),
        vocabulary=text.vocab_size,
        leaves_out_logits="logits_to_keep" in inspect.signature(network.forward).parameters,
        logit_copies=3 if hasattr(text, "logits_scaling") else 2,
        tied=network.get_input_embeddings().weight is network.get_output_embeddings().weight,
    )


def _mlp_width(text) -> int:
    """Return the width of the MLP that keeps as much for a token as the experts do that a mixture chooses for it."""
    if experts := getattr(text, "num_experts_per_tok", 0):
        return int(experts * (text.moe_intermediate_size + COPIES * text.hidden_size))
    return text.intermediate_size


def _merged(network: torch.nn.Module) -> tuple[int, ...]:
    sizes: dict[tuple, int] = {}
    for name, weight in network.named_parameters():
        if name.startswith("visual."):  # vLLM does not load this part of Qwen's Omni models
            continue
        *_, layer, kind = ("", *name.split("."))
        merged = next((group for group in MERGED if layer in group), layer)
        key = (name.removesuffix(f"{layer}.{kind}"), merged, kind)
        sizes[key] = sizes.get(key, 0) + weight.numel()
    return tuple(sizes.values())


def pinned(sizes: Sequence[int]) -> int:
    """Return the bytes of host memory that vLLM pins while it sleeps, for tensors of these sizes in bytes.

    vLLM copies each CUDA segment into a block of pinned memory (vllm/device_allocator/cumem.py, 0.24.0). torch rounds
    such a block up to a power of two and keeps it (ATen/core/CachingHostAllocator.h). torch 2.11 has no setting for
    that. Later versions have ``pinned_max_round_threshold_mb``, but with it vLLM 0.30 failed at its second sleep.
    """
    small = sum(size for size in sizes if size <= SMALL)
    medium = [size for size in sizes if SMALL < size <= MEDIUM]
    blocks = -(-small // SMALL_SEGMENT) * SMALL_SEGMENT
    left = 0
    for size in medium:
        if size > left:
            blocks, left = blocks + _power_of_two(MEDIUM_SEGMENT), MEDIUM_SEGMENT
        left -= size
    return blocks + sum(_power_of_two(-(-size // SMALL_SEGMENT) * SMALL_SEGMENT) for size in sizes if size > MEDIUM)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def estimates(config: DictConfig, size: ModelSize, memory: float) -> list[Estimate]:
    """Return estimates for one GPU of ``memory`` GiB while generating and while updating, a host, and the disk."""
    ranks = config.trainer.n_gpus_per_node * config.trainer.nnodes
    if 0 < (sharded := config.actor_rollout_ref.actor.fsdp_config.fsdp_size) < ranks:
        ranks = sharded  # the other ranks hold copies
    return [
        _generating(config, size, ranks, memory),
        _updating(config, size, ranks),
        _host(config, size, ranks),
        _disk(config, size),
    ]


def _width(dtype: Any) -> int:
    """Return the bytes of a weight; the actor's weights are fp32 if their dtype is null."""
    return 2 if str(dtype) in IN_TWO_BYTES else 4


def _shard(config: DictConfig, size: ModelSize, ranks: int, updates: bool) -> list[Part]:
    """Return what a rank of the actor keeps on its GPU while another part works, or with ``updates`` in an update.

    For an update verl loads what it offloads itself (workers/engine/base.py BaseEngineCtx, 0.9.1), but FSDP's
    ``offload_policy`` leaves weights, gradients and moments on the CPU.
    """
    engine = config.actor_rollout_ref.actor.fsdp_config
    has_weights, has_optimizer = (
        not engine.offload_policy and (updates or not offloaded)
        for offloaded in (engine.param_offload, engine.optimizer_offload)
    )
    base = has_weights * _width(engine.model_dtype) * size.parameters / ranks / GIB
    trained = (has_weights * 4 * size.lora + has_optimizer * 12 * size.trained) / ranks / GIB
    how = f"{size.parameters / 1e9:.2f} billion in {engine.model_dtype}, shared by {ranks} GPU(s)"
    return [
        Part("actor's weights", base, how),
        Part("trained weights", trained, "adapter, gradients and Adam's moments, 4 bytes each per weight"),
    ]


def _generating(config: DictConfig, size: ModelSize, ranks: int, memory: float) -> Estimate:
    rollout = config.actor_rollout_ref.rollout
    bucket = 2 * rollout.checkpoint_engine.update_weights_bucket_megabytes / 1024
    share, ways = rollout.gpu_memory_utilization * memory, rollout.tensor_model_parallel_size
    least = 2 * size.parameters / ways / GIB + CACHE
    how = f"gpu_memory_utilization={rollout.gpu_memory_utilization}"
    if share < least:
        how = f"weights on {ways} GPU(s), and a small cache; {how} is {share:.1f}"
    parts = [
        *_shard(config, size, ranks, updates=False),
        Part("vLLM", max(share, least), how),
        Part("weights in transfer", bucket, "twice update_weights_bucket_megabytes"),
        Part("contexts", CONTEXTS, "a constant"),
    ]
    others = sum(part.gib for part in parts) - parts[2].gib
    fits = max(0.0, (memory - others) / memory)
    remedies = [
        f"actor_rollout_ref.rollout.gpu_memory_utilization={int(100 * fits) / 100}",
        "actor_rollout_ref.actor.fsdp_config.model_dtype=bf16",
        "more GPUs",
    ]
    if fits * memory < least:
        wider = f"actor_rollout_ref.rollout.tensor_model_parallel_size={2 * ways}"
        remedies[:1] = [wider] if 2 * ways <= config.trainer.n_gpus_per_node else []
    return Estimate("one GPU, generating", parts, remedies)


def _micro_batch(config: DictConfig, size: ModelSize, updates: bool) -> tuple[int, Layout, bool]:
    """Return the number of responses in the largest micro-batch, its layout, and whether its rows share prompts.

    Micro-batches of the update split a mini-batch; those of the log-probability passes split the whole batch.
    """
    settings, data = config.actor_rollout_ref, config.data
    actor, n = settings.actor, settings.rollout.n
    longest = data.max_prompt_length + data.max_response_length
    count = actor.ppo_micro_batch_size_per_gpu or 1
    if actor.use_dynamic_bsz:
        prompts = actor.ppo_mini_batch_size if updates else data.train_batch_size
        of_rank = prompts * n // (config.trainer.n_gpus_per_node * config.trainer.nnodes)
        count = max(1, min(of_rank, actor.ppo_max_token_len_per_gpu // longest))
    alone = Layout(count, padded_length(longest))
    of_prompt = min(count, n)
    if not settings.model.override_config.get(SHARE_PROMPTS, False) or of_prompt == 1 or actor.use_dynamic_bsz:
        return count, alone, False
    packed = Layout(
        -(-count // of_prompt), padded_length(data.max_prompt_length + of_prompt * data.max_response_length)
    )
    shares = cheaper(packed, alone, size.hidden)
    return count, packed if shares else alone, shares


def _pass(config: DictConfig, size: ModelSize, updates: bool) -> list[Part]:
    """Return what the actor's largest forward pass needs; with ``updates``, also its backward pass."""
    count, layout, shares = _micro_batch(config, size, updates)
    tokens = layout.rows * layout.width
    layer = (OF_WIDTH * size.hidden + OF_MLP * size.mlp) * tokens // (1 if updates else 2)
    stored = 2 * size.layers * size.hidden * tokens
    if not config.actor_rollout_ref.model.enable_gradient_checkpointing:
        stored = size.layers * layer
    mask = 3 * layout.rows * layout.width**2 if shares else 0
    prompt = config.data.max_prompt_length - 1 if size.leaves_out_logits else 0
    computed = layout.rows * (layout.width - prompt)
    chunk = min(TOKENS, count * config.data.max_response_length)
    logits = (2 * (size.logit_copies if updates else 1) * computed + 8 * chunk) * size.vocabulary
    what, states = ("activations", stored) if updates else ("hidden states", 2 * size.hidden * tokens)
    return [
        Part(what, states / GIB, f"{layout.rows} row(s) of {layout.width} tokens for {count} response(s)"),
        Part("mask", mask / GIB, "one value per pair of tokens, and a copy in bf16"),
        # The logits and a layer's activations are never in memory together, so only the larger counts.
        Part("logits", logits / GIB, f"for {computed} tokens, and {chunk} at a time in float32")
        if logits > layer
        else Part("a layer", layer / GIB, "activations of one layer"),
    ]


def _updating(config: DictConfig, size: ModelSize, ranks: int) -> Estimate:
    passes = [_pass(config, size, updates) for updates in (True, False)]
    gathered = 2 * (size.outside + 2 * size.layer) / GIB
    parts = [
        *_shard(config, size, ranks, updates=True),
        Part("gathered weights", gathered, "everything outside the layers, and two layers, in bf16"),
        *max(passes, key=lambda parts: sum(part.gib for part in parts)),
        Part("sleeping vLLM", SLEEPING_VLLM, "a constant"),
        Part("contexts", CONTEXTS, "a constant"),
    ]
    actor = config.actor_rollout_ref.actor
    rows, tokens = actor.ppo_micro_batch_size_per_gpu or 1, actor.ppo_max_token_len_per_gpu
    smaller = f"ppo_micro_batch_size_per_gpu={rows // 2}"
    if actor.use_dynamic_bsz:
        smaller = f"ppo_max_token_len_per_gpu={max(config.data.max_prompt_length + config.data.max_response_length, tokens // 2)}"
    remedies = [
        f"actor_rollout_ref.actor.{smaller}",
        "actor_rollout_ref.actor.fsdp_config.model_dtype=bf16",
        "more GPUs",
    ]
    return Estimate("one GPU, updating", parts, remedies if rows > 1 or actor.use_dynamic_bsz else remedies[1:])


def _host(config: DictConfig, size: ModelSize, ranks: int) -> Estimate:
    settings, gpus = config.actor_rollout_ref, config.trainer.n_gpus_per_node
    rollout, engine = settings.rollout, settings.actor.fsdp_config
    # With an adapter, vLLM sleeps at level 1, which keeps the weights; otherwise at level 2, which drops them.
    sleeps = rollout.free_cache_engine and size.lora and not settings.model.lora.merge
    served = [2 * tensor // rollout.tensor_model_parallel_size for tensor in size.tensors]
    asleep = gpus * pinned(served) / GIB if sleeps else 0.0
    loads = gpus if size.tied and settings.actor.strategy != "fsdp2" else 1
    loading = loads * _width(engine.model_dtype) * size.parameters / GIB
    weights = _width(engine.model_dtype) * size.parameters + 4 * size.lora
    offloaded = (engine.offload_policy or engine.param_offload) * weights
    offloaded += (engine.offload_policy or engine.optimizer_offload) * 12 * size.trained
    pinned_how = f"{sum(served) / GIB:.1f} in bf16 for each GPU, pinned in blocks of powers of two"
    parts = [
        Part("sleeping vLLM's weights", asleep, pinned_how),
        Part("loading", loading, f"the model {loads} time(s)"),
        Part("processes", 3.0 * gpus + 10.0, "about 3 GiB per GPU and 10 for trainer, queue, Ray and workers"),
    ]
    if offloaded:
        how = "what the actor's param_offload, optimizer_offload or offload_policy keeps here"
        parts.append(Part("offloaded", gpus * offloaded / ranks / GIB, how))
    if not size.lora and (settings.actor.use_kl_loss or config.algorithm.use_kl_in_reward):
        blocks = sum(_power_of_two(max(1, 2 * tensor // ranks)) for tensor in size.tensors)
        parts.append(Part("reference policy", gpus * blocks / GIB, "in bf16, pinned in blocks of powers of two"))
    return Estimate("host memory per node", parts, ["fewer GPUs per node", "a smaller model"])


def _disk(config: DictConfig, size: ModelSize) -> Estimate:
    whole = not (size.lora and config.actor_rollout_ref.actor.checkpoint.get("save_lora_only", False))
    width = _width(config.actor_rollout_ref.actor.fsdp_config.model_dtype)
    weights = width * size.parameters if whole else 4 * size.lora
    parts = [
        Part("weights", weights / GIB, "all layers" if whole else "the adapter, in float32"),
        Part("Adam", 8 * size.trained / GIB, "two moments in float32"),
    ]
    if size.lora:
        parts.append(Part("adapter", 4 * size.lora / GIB, "in PEFT's layout, in float32"))
    return Estimate("disk per checkpoint", parts, ["trainer.default_local_dir to a folder on another disk"])


def check_memory(config: DictConfig) -> None:
    """Estimate the memory of a run on GPUs, log it, and compare it with this machine.

    Raises:
        ValueError: the run needs more memory than a GPU or the host has, or the disk has no room for one checkpoint.
    """
    model, actor = config.actor_rollout_ref.model, config.actor_rollout_ref.actor
    if config.trainer.device != "cuda" or "://" in model.path:
        return
    ulysses = actor.get("ulysses_sequence_parallel_size", 1) > 1
    if actor.strategy not in ("fsdp", "fsdp2") or model.use_fused_kernels or ulysses:
        logger.warning(
            "The memory of this run is not estimated: only FSDP without Ulysses and fused kernels is supported"
        )
        return
    try:
        hf_config = model_config(model.path)
        network = build_network(hf_config, FAMILIES.get(hf_config.model_type))
        lora = lora_layers(network, model.target_modules or (), model.exclude_modules) if model.lora_rank else {}
        if model.lora_rank and not lora:
            raise ValueError(f"target_modules={model.target_modules} names no linear layer")
        size = model_size(network, list(lora.values()), model.lora_rank)
    except (ValueError, AttributeError) as error:  # a text model may be of any architecture
        logger.warning("The memory of this run is not estimated: %s", " ".join(str(error).split()))
        return
    memory = gpu_memory()
    for estimate in estimates(config, size, memory or CARD):
        limit, where = _available(config, estimate, memory)
        needed = f"{estimate.name}: about {estimate.gib:.1f} GiB ({estimate.in_words()})"
        if limit is not None and estimate.gib > UNSURE * limit:
            raise ValueError(f"{needed}; {where} {limit:.1f}. Set {', or '.join(estimate.remedies)}")
        tight = limit is not None and estimate.gib > limit
        logger.warning("%s%s%s", needed, "" if limit is None else f"; {where} {limit:.1f}", ": tight" if tight else "")


def _available(config: DictConfig, estimate: Estimate, memory: float | None) -> tuple[float | None, str]:
    """Return the GiB that are available for an estimate (None if unknown), and words for where they are."""
    if estimate.on_gpu:
        return memory, "each has"
    if "disk" in estimate.name:
        folder = Path(config.trainer.default_local_dir).absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        return shutil.disk_usage(there).free / GIB, f"the disk of {folder} has"
    # If this machine has no GPU, the run will use another machine.
    return None if memory is None else host_memory(), "this one has"


def host_memory() -> float:
    """Return the GiB of memory that this machine has, or fewer if its cgroup is limited."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        sizes.append(int(text))
    return min(sizes) / GIB
