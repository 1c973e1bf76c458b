"""The trained LoRA adapter in PEFT's format, and models with an adapter merged into their weights.

``python -m verl.model_merger`` (0.9.1) rounds the adapter to bfloat16 and wants to write the whole model beside it. And
transformers' ``save_pretrained`` (5.10.4) writes Qwen2-Audio under names that neither the hub nor vLLM knows. Here both are
written with the names of the checkpoint files on the hub, which plain transformers, PEFT and vLLM all load.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, Shard
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from verl_leaf.checks import model_config
from verl_leaf.models import FAMILIES, Family

PEFT_PREFIX = "base_model.model."
WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"


class SaveAdapter(CheckpointCallback):
    """``trainer.checkpoint_callback_class=verl_leaf.export.SaveAdapter``: every checkpoint gets a folder ``adapter``."""

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
        destination: folder to write; it appears complete or not at all.
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
    with _complete_or_not_at_all(destination) as scratch:
        save_file(_load_adapter(checkpoint, _family(base_model)), scratch / ADAPTER, metadata={"format": "pt"})
        config.save_pretrained(scratch)


def export_run(run: Path, destination: Path, merged: bool, console: Console) -> None:
    """Write the adapter of a run, or its model with the adapter merged.

    Args:
        run: folder of a run, finished or with a checkpoint.
        destination: folder to write; it appears complete or not at all.
        merged: write the model.
        console: for the progress.

    Raises:
        ValueError: there is no adapter, or the destination exists.
    """
    adapter = _adapter_of(run)
    if merged:
        base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
        merge(base, adapter, destination, console)
        return
    _check_new(destination)
    with _complete_or_not_at_all(destination) as scratch:
        shutil.copytree(adapter, scratch, dirs_exist_ok=True)


def merge(model: str, adapter: Path | None, destination: Path, console: Console) -> None:
    """Write a model with a LoRA adapter added to its weights, in the layout and the dtype that it has.

    One file of weights is in memory at a time; sums are taken in float32.

    Args:
        model: folder or hub name, with weights in safetensors.
        adapter: folder of the adapter; the model's own if None.
        destination: folder to write; it appears complete or not at all.
        console: for the progress.

    Raises:
        ValueError: files are missing, the adapter is not plain LoRA or does not fit the model, or the destination exists.
    """
    _check_new(destination)
    folder = _local(model)
    adapter = adapter or folder
    deltas = _deltas(adapter, _family(str(folder)))
    if (folder / INDEX).exists():
        files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    else:
        files = [WEIGHTS]
    for name in files:
        if not (folder / name).exists():
            raise ValueError(f"{folder}: has no {name}; models are merged from safetensors files")
    with _complete_or_not_at_all(destination) as scratch:
        for name in track(files, "Merging", console=console, disable=not console.is_terminal):
            with safe_open(folder / name, "pt") as weights:
                tensors = {key: weights.get_tensor(key) for key in weights.keys()}
                metadata = weights.metadata()
            for key in tensors.keys() & deltas.keys():
                tensors[key] = _added(key, tensors[key], *deltas.pop(key))
            save_file(tensors, scratch / name, metadata=metadata)
        if deltas:
            raise ValueError(
                f"{adapter}: {len(deltas)} of its weights are for layers that {folder} lacks: {sorted(deltas)[0]}"
            )
        for file in folder.iterdir():
            if file.is_file() and file.name not in files and not file.name.startswith("adapter_"):
                shutil.copy(file, scratch)
        config = json.loads((folder / "config.json").read_text())
        if "has_lora_adapter" in config:
            (scratch / "config.json").write_text(json.dumps({**config, "has_lora_adapter": False}, indent=2))


def _adapter_of(run: Path) -> Path:
    """The adapter of a finished run, or of the last checkpoint of another."""
    checkpoints = run.glob("**/checkpoints/global_step_*/adapter")  # of the run, or of its epochs
    newest = sorted(checkpoints, key=lambda path: path.stat().st_mtime, reverse=True)
    found = [path for path in (run / "adapter", *newest) if (path / "adapter_config.json").exists()]
    if not found:
        raise ValueError(
            f"{run}: holds no adapter: give the folder of a run of `verl-leaf train` that has a checkpoint"
        )
    return found[0]


def _check_new(destination: Path) -> None:
    if destination.exists():
        raise ValueError(f"{destination} exists: delete it, or choose another --out")


def _family(model: str) -> Family | None:
    if "://" in model:  # remote storage: veRL's own copy is not known here
        return None
    return FAMILIES.get(model_config(os.path.expanduser(model)).model_type)


def _local(model: str) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model))
    except (OSError, ValueError) as error:
        raise ValueError(f"{model} is neither a folder nor a model that can be downloaded here ({error})") from error


def _deltas(adapter: Path, family: Family | None) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """Checkpoint name of a weight -> A, B and scale of what is to be added to it."""
    if not (adapter / "adapter_config.json").exists() or not (adapter / ADAPTER).exists():
        raise ValueError(f"{adapter}: has no adapter_config.json with {ADAPTER}: there is nothing to merge")
    config = LoraConfig.from_pretrained(adapter)
    plain = LoraConfig(bias="none")
    for option in ("use_dora", "bias", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out"):
        if (getattr(config, option) or None) != (getattr(plain, option) or None):
            raise ValueError(
                f"{adapter}: {option}={getattr(config, option)} in adapter_config.json; only plain LoRA is merged"
            )
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    tensors = load_file(adapter / ADAPTER)
    deltas = {}
    for name in tensors:
        module, _, kind = name.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".")
        if kind not in ("lora_A", "lora_B"):
            raise ValueError(f"{adapter / ADAPTER}: {name} is no weight of plain LoRA")
        if kind == "lora_A":
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            deltas[_checkpoint_name(module, family) + ".weight"] = (tensors[name], b, scale)
    return deltas


def _added(name: str, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    if weight.shape != (len(b), a.shape[1]):
        raise ValueError(f"{name}: is {tuple(weight.shape)} in the model and {(len(b), a.shape[1])} in the adapter")
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)


def _checkpoint_name(name: str, family: Family | None) -> str:
    return family.checkpoint_name(name) if family else name


@contextmanager
def _complete_or_not_at_all(destination: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when it is full."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        yield Path(scratch)
        os.chmod(scratch, 0o755)
        os.rename(scratch, destination)
        os.mkdir(scratch)  # for TemporaryDirectory to remove


def _load_adapter(checkpoint: Path, family: Family | None) -> dict[str, torch.Tensor]:
    """Full adapter weights, from the shards of all ranks."""
    ranks = json.loads((checkpoint / "fsdp_config.json").read_text())["world_size"]
    shards = [
        torch.load(checkpoint / f"model_world_size_{ranks}_rank_{rank}.pt", map_location="cpu", weights_only=False)
        for rank in range(ranks)
    ]
    return {
        PEFT_PREFIX + _checkpoint_name(name.removeprefix(PEFT_PREFIX).replace(".default.", "."), family): _join(
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
