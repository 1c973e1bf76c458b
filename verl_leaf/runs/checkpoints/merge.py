"""A model with a LoRA adapter merged into its weights."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from verl_leaf.common.console import Console
from verl_leaf.common.files import whole_folder
from verl_leaf.common.progress import track
from verl_leaf.models import Family
from verl_leaf.runs.checkpoints.common import (
    ADAPTER_WEIGHTS,
    PEFT_PREFIX,
    check_new,
    checkpoint_name,
    family_of_model,
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


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
    check_new(destination)
    folder = local_folder(model)
    adapter = adapter or folder
    deltas = _deltas(adapter, family_of_model(str(folder)))
    if (folder / INDEX).exists():
        files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    else:
        files = [WEIGHTS]
    for name in files:
        if not (folder / name).exists():
            raise ValueError(f"{folder}: has no {name}; models are merged from safetensors files")
    with whole_folder(destination) as scratch:
        for name in track(files, "Merging", len(files), console):
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


def local_folder(model: str) -> Path:
    """The folder of a model or adapter, downloaded from the hub if it is the name of one there.

    Raises:
        ValueError: it is neither.
    """
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
    if not (adapter / "adapter_config.json").exists() or not (adapter / ADAPTER_WEIGHTS).exists():
        raise ValueError(f"{adapter}: has no adapter_config.json with {ADAPTER_WEIGHTS}: there is nothing to merge")
    config = LoraConfig.from_pretrained(str(adapter))
    plain = LoraConfig(bias="none")
    for option in ("use_dora", "bias", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out"):
        if (getattr(config, option) or None) != (getattr(plain, option) or None):
            raise ValueError(
                f"{adapter}: {option}={getattr(config, option)} in adapter_config.json; only plain LoRA is merged"
            )
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    deltas = {}
    for name in tensors:
        module, _, kind = name.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".")
        if kind not in ("lora_A", "lora_B"):
            raise ValueError(f"{adapter / ADAPTER_WEIGHTS}: {name} is no weight of plain LoRA")
        if kind == "lora_A":
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            deltas[checkpoint_name(module, family) + ".weight"] = (tensors[name], b, scale)
    return deltas


def _added(name: str, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    if weight.shape != (len(b), a.shape[1]):
        raise ValueError(f"{name}: is {tuple(weight.shape)} in the model and {(len(b), a.shape[1])} in the adapter")
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
