"""The trained weights in an FSDP checkpoint of verl's actor, with the names of the hub's checkpoint files."""

import os
import pickle
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor, Shard
from verl.workers.engine.fsdp.utils import unfuse_moe_params

from verl_leaf.checks.model import model_config
from verl_leaf.models import FAMILIES, Family
from verl_leaf.runs.adapters import weight_files

PEFT_PREFIX = "base_model.model."
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def family_of_model(model: str) -> Family | None:
    """Return the family of a model folder or hub name, or None for a text model or a remote path."""
    if "://" in model:  # the path of verl's local copy is unknown
        return None
    return FAMILIES.get(model_config(os.path.expanduser(model)).model_type)


def checkpoint_name(name: str, family: Family | None) -> str:
    """Return the name of a weight or module in the hub's checkpoint files."""
    return family.checkpoint_name(name) if family else name


def trained_weights(actor: Path, family: Family | None) -> dict[str, Callable[[], torch.Tensor]]:
    """Return a function for each weight, by name, that joins the weight from its shards when called.

    Args:
        actor: folder with ``fsdp_config.json`` and ``model_world_size_*_rank_*.pt``.
        family: family whose checkpoint files have these names, or None to keep the names.

    Raises:
        ValueError: the checkpoint is incomplete, or a file cannot be read.
    """
    files = weight_files(actor)
    if not files:
        raise ValueError(
            f"{actor} is not a complete FSDP checkpoint (fsdp_config.json and model_world_size_*_rank_*.pt)"
        )
    shards = []
    for file in files:
        try:
            shards.append(torch.load(file, map_location="cpu", mmap=True, weights_only=True))
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{file} is damaged, or contains objects other than tensors, which could run a program. It is not loaded"
            ) from error
        except (RuntimeError, EOFError) as error:
            raise ValueError(
                f"{file} cannot be read ({error}). Delete {actor.parent}, or export another step"
            ) from error
    # For a layer's two tensors of experts, because files have each expert's weights together.
    experts = lru_cache(maxsize=2)(lambda name, parts: dict(unfuse_moe_params([(name, _join(parts))])))
    weights: dict[str, Callable[[], torch.Tensor]] = {}
    for name, first in shards[0].items():
        parts = tuple(shard[name] for shard in shards)
        name = checkpoint_name(name.removeprefix(PEFT_PREFIX).replace(".default.", "."), family)
        unfused = [unfused for unfused, _ in unfuse_moe_params([(name, torch.empty(first.shape, device="meta"))])]
        if unfused == [name]:
            weights[name] = partial(_join, parts)
        else:  # transformers has a layer's experts in one tensor, files have each expert separately
            weights |= {expert: partial(_expert, experts, expert, name, parts) for expert in unfused}
    return weights


def _expert(experts: Callable[[str, tuple], dict], weight: str, name: str, parts: tuple) -> torch.Tensor:
    return experts(name, parts)[weight]


def _join(parts: Sequence) -> torch.Tensor:
    """Return one tensor from its parts on all ranks. FSDP2 shards along one axis and copies the shards to other nodes."""
    first = parts[0]
    if not isinstance(first, DTensor):
        return first.contiguous()
    placement = first.placements[-1]
    if not isinstance(placement, Shard):
        return first.to_local().contiguous()
    shards = [part.to_local() for part in parts[: first.device_mesh.shape[-1]]]
    return torch.cat(shards, dim=placement.dim).contiguous()
