"""How much memory a recipe's settings would take, from the configurations alone. No weights are loaded.

Estimates, in GiB, of what the software keeps at its two peaks, generating and updating. They leave out fragmentation and
what the libraries allocate for themselves but for the constants below, and are meant to be right to about a tenth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig

GIB = 2**30
BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}
CONTEXTS = 1.5  # GiB: CUDA's contexts and NCCL's buffers of the actor's and vLLM's process
SLEEPING_VLLM = 2.0  # GiB that vLLM keeps on the GPU while it sleeps: graphs and workspaces
LAYER_ACTIVATIONS = (
    34  # bytes per token and unit of width of a layer that is computed again (arXiv 2205.05198, section 4.1)
)


@dataclass(frozen=True)
class Part:
    """A part of an estimate: what it is, how many GiB, and where the number comes from."""

    what: str
    gib: float
    how: str


@dataclass(frozen=True)
class Estimate:
    """What one GPU, or one host, needs at a time.

    Attributes:
        name: of the peak.
        parts: what adds up to it.
        remedies: settings that would make it smaller, the most effective first.
    """

    name: str
    parts: Sequence[Part]
    remedies: Sequence[str] = ()

    @property
    def gib(self) -> float:
        return sum(part.gib for part in self.parts)


@dataclass(frozen=True)
class ModelSize:
    """What matters of a model, as counted on the meta device.

    Attributes:
        parameters: of the whole model.
        lora: of the adapter.
        layer: of the largest layer of the language model.
        outside: of everything that is no such layer (embeddings, head, audio encoder), which FSDP gathers as one.
        layers, hidden, vocabulary: of the language model.
    """

    parameters: int
    lora: int
    layer: int
    outside: int
    layers: int
    hidden: int
    vocabulary: int


def model_size(network: Any, text_config, lora_layers: Sequence[torch.nn.Linear], rank: int) -> ModelSize:
    """Count a model's parameters.

    Args:
        network: a :class:`verl_leaf.models.actor.SpeechActor` on any device, the meta device included.
        text_config: of its language model.
        lora_layers: that LoRA takes.
        rank: of LoRA.
    """

    def count(module: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    sizes = [count(layer) for layer in network.decoder_layers]
    parameters = count(network)
    return ModelSize(
        parameters=parameters,
        lora=sum(rank * (layer.in_features + layer.out_features) for layer in lora_layers),
        layer=max(sizes),
        outside=parameters - sum(sizes),
        layers=len(sizes),
        hidden=text_config.hidden_size,
        vocabulary=text_config.vocab_size,
    )


def estimates(config: DictConfig, size: ModelSize, memory: float) -> list[Estimate]:
    """The peaks of a run.

    Args:
        config: verl's, composed.
        size: of the model.
        memory: of a GPU, GiB.

    Returns:
        One GPU while generating and while updating, the host of one node, and the disk per checkpoint.
    """
    ranks = config.trainer.n_gpus_per_node * config.trainer.nnodes
    return [
        _generating(config, size, ranks, memory),
        _updating(config, size, ranks),
        _host(config, size),
        _disk(size),
    ]


def _shard(config: DictConfig, size: ModelSize, ranks: int) -> list[Part]:
    """What a rank of the actor keeps on its GPU all the time."""
    engine = config.actor_rollout_ref.actor.fsdp_config
    width = BYTES[engine.model_dtype]
    base = 0.0 if engine.param_offload or engine.offload_policy else width * size.parameters / ranks / GIB
    optimizer = 0.0 if engine.optimizer_offload else 12 * size.lora / ranks / GIB
    return [
        Part(
            "actor's weights",
            base,
            f"{size.parameters / 1e9:.2f} billion in {engine.model_dtype}, shared by {ranks} GPU(s)",
        ),
        Part("adapter, its gradients and Adam", 4 * size.lora / ranks / GIB + optimizer, "16 bytes per weight"),
    ]


def _generating(config: DictConfig, size: ModelSize, ranks: int, memory: float) -> Estimate:
    rollout = config.actor_rollout_ref.rollout
    bucket = 2 * rollout.checkpoint_engine.update_weights_bucket_megabytes / 1024
    parts = [
        *_shard(config, size, ranks),
        Part(
            "vLLM", rollout.gpu_memory_utilization * memory, f"gpu_memory_utilization={rollout.gpu_memory_utilization}"
        ),
        Part("weights on their way", bucket, "twice update_weights_bucket_megabytes"),
        Part("contexts", CONTEXTS, "a constant"),
    ]
    others = sum(part.gib for part in parts) - parts[2].gib
    fits = max(0.0, (memory - others) / memory)
    remedies = [
        f"actor_rollout_ref.rollout.gpu_memory_utilization={int(100 * fits) / 100}",
        "actor_rollout_ref.actor.fsdp_config.model_dtype=bf16",
        "more GPUs",
    ]
    weights = BYTES["bfloat16"] * size.parameters / rollout.tensor_model_parallel_size / GIB
    if fits * memory < weights + 2:  # vLLM needs its weights and some cache
        remedies = remedies[1:]
    return Estimate("one GPU, generating", parts, remedies)


def _updating(config: DictConfig, size: ModelSize, ranks: int) -> Estimate:
    actor, data = config.actor_rollout_ref.actor, config.data
    rows = actor.ppo_micro_batch_size_per_gpu or 1
    answers = rows * data.max_response_length
    shared = config.actor_rollout_ref.model.override_config.get("share_prompts", False)
    prompts = max(1, rows // config.actor_rollout_ref.rollout.n) if shared else rows
    tokens = prompts * data.max_prompt_length + answers
    kept = size.layers if config.actor_rollout_ref.model.enable_gradient_checkpointing else 0
    computed = 1 if kept else size.layers
    parts = [
        *_shard(config, size, ranks),
        Part(
            "gathered weights", 2 * (size.outside + 2 * size.layer) / GIB, "what is no layer, and two layers, in bf16"
        ),
        Part(
            "activations",
            (2 * kept + LAYER_ACTIVATIONS * computed) * tokens * size.hidden / GIB,
            f"{tokens} tokens in a micro-batch of {rows} responses",
        ),
        Part("logits", 10 * answers * size.vocabulary / GIB, "bf16, their gradient and a float32 copy"),
        Part("sleeping vLLM", SLEEPING_VLLM, "a constant"),
        Part("contexts", CONTEXTS, "a constant"),
    ]
    remedies = [
        f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={max(1, rows // 2)}",
        "actor_rollout_ref.actor.fsdp_config.model_dtype=bf16",
        "more GPUs",
    ]
    return Estimate("one GPU, updating", parts, remedies if rows > 1 else remedies[1:])


def _host(config: DictConfig, size: ModelSize) -> Estimate:
    gpus = config.trainer.n_gpus_per_node
    sleeping = gpus * BYTES["bfloat16"] * size.parameters / config.actor_rollout_ref.rollout.tensor_model_parallel_size
    loading = BYTES[config.actor_rollout_ref.actor.fsdp_config.model_dtype] * size.parameters
    return Estimate(
        "host memory per node",
        [
            Part("sleeping vLLM's weights", sleeping / GIB, "pinned, in bf16, for each GPU"),
            Part("loading", loading / GIB, "the model once, on rank 0; on every rank where embeddings are tied"),
            Part("processes", 3.0 * gpus + 10.0, "about 3 GiB per GPU and 10 for trainer, queue, Ray and workers"),
        ],
    )


def _disk(size: ModelSize) -> Estimate:
    parts = [
        Part("adapter", 8 * size.lora / GIB, "float32, in verl's layout and in PEFT's"),
        Part("Adam", 8 * size.lora / GIB, "two moments in float32"),
    ]
    return Estimate("disk per checkpoint", parts)
