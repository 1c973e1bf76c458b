"""Merging of trained weights into a model's files: a LoRA adapter is added, a checkpoint's weights replace the model's."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from verl_leaf.checks.model import model_config
from verl_leaf.common.progress import track
from verl_leaf.models import Family
from verl_leaf.runs.checkpoints.weights import (
    ADAPTER_WEIGHTS,
    PEFT_PREFIX,
    checkpoint_name,
    family_of_model,
    trained_weights,
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

# Checkpoint name of a weight -> function from its old to its new value.
Changes = dict[str, Callable[[torch.Tensor], torch.Tensor]]


def merge(model: str, adapter: Path | None, destination: Path) -> None:
    """Write a model with a LoRA adapter added to its weights; the sums are computed in float32.

    Args:
        model: folder or hub name, of a model with safetensors weights.
        adapter: folder of the adapter, or None for the adapter in the model folder.
        destination: existing empty folder.

    Raises:
        ValueError: files are missing, or the adapter is not plain LoRA or does not fit the model.
    """
    folder = local_folder(model)
    adapter = adapter or folder
    unused = _write(folder, _additions(adapter, family_of_model(str(folder))), destination)
    _check_none(unused, adapter, folder)


def write_trained(model: str, actor: Path, destination: Path) -> None:
    """Write a model with the weights of a checkpoint of verl's actor; weights that the actor lacks stay as they were.

    Raises:
        ValueError: files are missing, cannot be read, or do not fit the model.
    """
    folder = local_folder(model)
    trained = trained_weights(actor, family_of_model(str(folder)))
    changes: Changes = {name: partial(_replaced, name, value) for name, value in trained.items()}
    unused = _write(folder, changes, destination)
    config = model_config(str(folder))
    if any(getattr(part, "tie_word_embeddings", False) for part in (config, config.get_text_config())):
        unused = [name for name in unused if not name.endswith("lm_head.weight")]  # tied to the embedding
    _check_none(unused, actor, folder)


def _write(folder: Path, changes: Changes, destination: Path) -> list[str]:
    """Write a model with changed weights, in its layout and dtypes, file by file; return names that the model lacks."""
    if (folder / INDEX).exists():
        files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    else:
        files = [WEIGHTS]
    for name in files:
        if Path(name).name != name:  # it would be read and written outside of the folder
            raise ValueError(f"{folder / INDEX} names {name!r}, which is not a file of the folder")
        if not (folder / name).exists():
            raise ValueError(f"{folder} has no {name}. Only models with safetensors files can be merged")
    for name in track(files, "Merging", len(files)):
        with safe_open(folder / name, "pt") as weights:
            tensors = {key: weights.get_tensor(key) for key in weights.keys()}
            metadata = weights.metadata()
        for key in sorted(tensors.keys() & changes.keys()):
            tensors[key] = changes.pop(key)(tensors[key])
        save_file(tensors, destination / name, metadata=metadata)
    for file in folder.iterdir():
        if file.is_file() and file.name not in files and not file.name.startswith("adapter_"):
            shutil.copy(file, destination)
    config = json.loads((folder / "config.json").read_text())
    if "has_lora_adapter" in config:
        (destination / "config.json").write_text(json.dumps({**config, "has_lora_adapter": False}, indent=2))
    return sorted(changes)


def _check_none(unused: list[str], source: Path, folder: Path) -> None:
    if unused:
        raise ValueError(
            f"{source}: {len(unused)} of its weights belong to layers that {folder} lacks, such as {unused[0]}"
        )


def local_folder(model: str) -> Path:
    """Return the folder of a model or adapter; download it if it is a hub name.

    Raises:
        ValueError: it is neither a folder nor a hub name that can be downloaded.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model))
    except (OSError, ValueError) as error:
        raise ValueError(f"{model} is neither a folder nor a model that can be downloaded ({error})") from error


def _additions(adapter: Path, family: Family | None) -> Changes:
    if not (adapter / "adapter_config.json").exists() or not (adapter / ADAPTER_WEIGHTS).exists():
        raise ValueError(f"{adapter} has no adapter_config.json with {ADAPTER_WEIGHTS}, so there is nothing to merge")
    config = LoraConfig.from_pretrained(str(adapter))
    plain = LoraConfig(bias="none")
    for option in ("use_dora", "bias", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out"):
        if (getattr(config, option) or None) != (getattr(plain, option) or None):
            raise ValueError(
                f"{adapter}: adapter_config.json has {option}={getattr(config, option)}, but only plain LoRA can be merged"
            )
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    changes: Changes = {}
    for name in tensors:
        module, _, kind = name.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".")
        if kind not in ("lora_A", "lora_B"):
            raise ValueError(f"{adapter / ADAPTER_WEIGHTS}: {name} is not a weight of plain LoRA")
        if kind == "lora_A":
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            weight = checkpoint_name(module, family) + ".weight"
            changes[weight] = partial(_added, weight, a=tensors[name], b=b, scale=scale)
    return changes


def _added(name: str, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    _check_shape(name, weight, (len(b), a.shape[1]), "adapter")
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)


def _replaced(name: str, value: Callable[[], torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    trained = value()
    _check_shape(name, weight, tuple(trained.shape), "checkpoint")
    return trained.to(weight.dtype)


def _check_shape(name: str, weight: torch.Tensor, shape: tuple, source: str) -> None:
    if weight.shape != shape:
        raise ValueError(f"{name} has shape {tuple(weight.shape)} in the model but {shape} in the {source}")
