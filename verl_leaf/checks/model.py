"""Checks of a model by its config.json alone; the doctor and the check before a run share them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from verl_leaf.common.files import file_digest
from verl_leaf.models import FAMILIES, Family

# The package registries have torchvision only for builds of torch for CUDA.
NEEDS_GPU_VERSIONS = (
    "install 'verl-leaf[{0}]', which also loads on a machine without a GPU (bash tests/versions/lane.sh {0})"
)
MADE_OF = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")  # files that make a model or adapter


@dataclass(frozen=True)
class ModelProblem:
    """A reason why a model cannot be trained."""

    what: str  # affected part, such as "architecture"
    found: str
    remedy: str  # instruction for the user


def model_config(path: str):
    """Return the Hugging Face configuration of a model folder or hub name.

    Raises:
        ValueError: there is none, or transformers does not know it.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(os.path.expanduser(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is neither a folder with a readable config.json nor a model that can be loaded from the Hugging Face hub "
            f"({error})"
        ) from error


def model_problems(path: str, config) -> list[ModelProblem]:
    """Return every problem that would break the training of a model."""
    from transformers.utils import find_adapter_config_file

    family = FAMILIES.get(config.model_type)
    if family is None:
        remedy = (
            f"the supported families are {', '.join(FAMILIES)}; verl_leaf/models/README.md describes how to add one"
        )
        return [ModelProblem("family", repr(config.model_type), remedy)]
    problems = []
    if family.missing:
        remedy = NEEDS_GPU_VERSIONS.format(family.extra)
        problems.append(ModelProblem("packages", f"{family.model_type} {family.missing}", remedy))
    architectures = config.architectures or []
    if not set(architectures[:1]) & set(family.architectures):
        remedy = f'vLLM would load another class. Set "architectures": ["{family.architectures[-1]}"] in config.json'
        problems.append(ModelProblem("architecture", ", ".join(architectures) or "none named", remedy))
    if getattr(config, "quantization_config", None):  # only quantised models have this attribute
        remedy = "the actor cannot train quantised weights. Use the original model"
        problems.append(ModelProblem("weights", "quantised", remedy))
    if (reason := family.unsupported_reason(config)) is not None:
        problems.append(ModelProblem("configuration", reason, "vLLM cannot serve such a model. Use another one"))
    if find_adapter_config_file(os.path.expanduser(path)) is not None:
        remedy = (
            "the actor would load it, but the rollout engine would not. Merge it into the weights, and train the result: "
            f"verl-leaf merge {path} --out FOLDER"
        )
        problems.append(ModelProblem("adapter", "the model folder contains a LoRA adapter", remedy))
    return problems


def check_speech_model(path: str, family: str | None = None) -> Family | None:
    """Raise an error unless a path or hub name is a speech model that can be trained.

    Args:
        family: the ``model_type`` that it must have, or None for any supported one.

    Returns:
        The model's family, or None for a path in remote storage, which verl copies later.

    Raises:
        ValueError: the model does not exist, belongs to another family, or has a problem. The message says what to do.
    """
    if "://" in path:
        return None
    config = model_config(path)
    for problem in model_problems(path, config):
        raise ValueError(f"actor_rollout_ref.model.path={path}: {problem.what}: {problem.found}: {problem.remedy}")
    if family not in (None, config.model_type):
        raise ValueError(
            f"actor_rollout_ref.model.path={path} belongs to the family {config.model_type}, but the recipe is for {family}. Use "
            f"the recipe of {config.model_type}"
        )
    return FAMILIES[config.model_type]


def model_digest(folder: Path) -> str:
    """Return the SHA-256 of the files that make a model or adapter."""
    together = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in MADE_OF and file.is_file():
            together.update(f"{file.name} {file_digest(file)}\n".encode())
    return together.hexdigest()
