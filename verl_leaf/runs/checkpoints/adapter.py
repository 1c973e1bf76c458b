"""The trained LoRA adapter of a checkpoint, in PEFT's format."""

import json
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor, Shard
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from verl_leaf.common.files import whole_folder
from verl_leaf.models import Family
from verl_leaf.runs.checkpoints.common import (
    ADAPTER_WEIGHTS,
    PEFT_PREFIX,
    checkpoint_name,
    family_of_model,
)


class SaveAdapter(CheckpointCallback):
    """``trainer.checkpoint_callback_class=verl_leaf.runs.checkpoints.merge.SaveAdapter``: every checkpoint gets a folder ``adapter``."""

    def on_save(self, trainer, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs) -> None:
        model = self.config.actor_rollout_ref.model
        export_adapter(
            Path(checkpoint_dir) / "actor",
            Path(checkpoint_dir) / "adapter",
            base_model=model.path,
            target_modules=model.target_modules,
            exclude_modules=model.exclude_modules,
        )


def export_adapter(
    checkpoint: Path, destination: Path, *, base_model: str, target_modules=None, exclude_modules: str | None = None
) -> None:
    """Write the adapter of an FSDP actor checkpoint for ``peft.PeftModel.from_pretrained``.

    Args:
        checkpoint: folder with ``model_world_size_*_rank_*.pt`` and ``lora_train_meta.json``.
        destination: folder to write; it appears complete or not at all, and takes the place of an earlier one.
        base_model: path or hub name of the model that the adapter belongs to.
        target_modules: veRL's ``model.target_modules``.
        exclude_modules: veRL's ``model.exclude_modules``.

    Raises:
        FileNotFoundError: the folder holds no LoRA checkpoint.
    """
    meta = json.loads((checkpoint / "lora_train_meta.json").read_text())
    config = LoraConfig(
        r=meta["r"],
        lora_alpha=meta["lora_alpha"],
        task_type=meta["task_type"],
        base_model_name_or_path=base_model,
        target_modules=list(target_modules) if not isinstance(target_modules, str) else target_modules,
        exclude_modules=exclude_modules,
        inference_mode=True,
    )
    with whole_folder(destination, replace=True) as scratch:
        save_file(
            _load_adapter(checkpoint, family_of_model(base_model)), scratch / ADAPTER_WEIGHTS, metadata={"format": "pt"}
        )
        config.save_pretrained(str(scratch))


def _load_adapter(checkpoint: Path, family: Family | None) -> dict[str, torch.Tensor]:
    """Full adapter weights, from the shards of all ranks."""
    ranks = json.loads((checkpoint / "fsdp_config.json").read_text())["world_size"]
    shards = [
        torch.load(
            checkpoint / f"model_world_size_{ranks}_rank_{rank}.pt", map_location="cpu", mmap=True, weights_only=False
        )
        for rank in range(ranks)
    ]
    return {
        PEFT_PREFIX + checkpoint_name(name.removeprefix(PEFT_PREFIX).replace(".default.", "."), family): _join(
            [shard[name] for shard in shards]
        )
        for name in shards[0]
        if "lora_" in name
    }


def _join(parts: list) -> torch.Tensor:
    """One tensor from its parts on all ranks; FSDP2 shards along one axis, or replicates."""
    first = parts[0]
    if not isinstance(first, DTensor):
        return first.contiguous()
    placement = first.placements[-1]
    local = [part.to_local() for part in parts]
    if isinstance(placement, Shard):
        return torch.cat(local, dim=placement.dim)[: first.shape[0]].contiguous()
    return local[0].contiguous()
