"""Whether a model can be trained, known from its config.json. The doctor and the check before a run ask the same list."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from verl_leaf.common.files import file_digest
from verl_leaf.models import FAMILIES, Family

# The package registries hold torchvision for builds of torch for CUDA alone.
NEEDS_GPU_VERSIONS = (
    "install 'verl-leaf[{0}]', which also loads on a machine without a GPU (bash tests/versions/lane.sh {0})"
)
MADE_OF = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")  # files of a model or adapter that matter


@dataclass(frozen=True)
class ModelProblem:
    """Why a model cannot be trained.

    Attributes:
        what: what is wrong with it, as "architecture".
        found: what was found.
        remedy: what to do.
    """

    what: str
    found: str
    remedy: str


def model_config(path: str):
    """The Hugging Face configuration of a model folder or hub name.

    Raises:
        ValueError: there is none, or one that transformers does not know.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(os.path.expanduser(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is neither a folder with a readable config.json nor a model that the Hugging Face hub gives out here "
            f"({error})"
        ) from error


def model_problems(path: str, config) -> list[ModelProblem]:
    """Everything that would break the training of a model.

    Args:
        path: model folder or hub name.
        config: its :func:`model_config`.
    """
    from transformers.utils import find_adapter_config_file

    family = FAMILIES.get(config.model_type)
    if family is None:
        remedy = f"supported speech models are {', '.join(FAMILIES)}; verl_leaf/models/README.md says how to add one"
        return [ModelProblem("family", repr(config.model_type), remedy)]
    problems = []
    if family.missing:
        remedy = NEEDS_GPU_VERSIONS.format(family.extra)
        problems.append(ModelProblem("packages", f"{family.model_type} {family.missing}", remedy))
    architectures = config.architectures or []
    if not set(architectures[:1]) & set(family.architectures):
        remedy = f'vLLM would take another class: set "architectures": ["{family.architectures[-1]}"] in config.json'
        problems.append(ModelProblem("architecture", ", ".join(architectures) or "none named", remedy))
    if getattr(config, "quantization_config", None):  # an attribute of quantised models alone
        problems.append(
            ModelProblem("weights", "quantised", "the actor trains weights that are not: take the original model")
        )
    if (reason := family.unsupported_reason(config)) is not None:
        problems.append(ModelProblem("configuration", reason, "such a model cannot be served by vLLM: take another"))
    if find_adapter_config_file(os.path.expanduser(path)) is not None:
        remedy = (
            "the actor would load it and the rollout engine would not. Merge it into the weights, and train the result: "
            f"verl-leaf merge {path} --out FOLDER"
        )
        problems.append(ModelProblem("own adapter", "a LoRA adapter of its own", remedy))
    return problems


def check_speech_model(path: str, family: str | None = None) -> Family | None:
    """Stop unless a path or hub name holds a speech model that can be trained.

    Args:
        path: model folder or hub name.
        family: the ``model_type`` that it must have; any supported one if None.

    Returns:
        Its family; None for a path in remote storage, which verl copies later.

    Raises:
        ValueError: it does not exist, is of another family, or has a problem; the message says what to do.
    """
    if "://" in path:
        return None
    config = model_config(path)
    for problem in model_problems(path, config):
        raise ValueError(f"actor_rollout_ref.model.path={path}: {problem.what}: {problem.found}: {problem.remedy}")
    if family not in (None, config.model_type):
        raise ValueError(
            f"actor_rollout_ref.model.path={path} is of the family {config.model_type}, the recipe is {family}'s: take "
            "the other family's recipe"
        )
    return FAMILIES[config.model_type]


def model_digest(folder: Path) -> str:
    """Return the SHA-256 of what makes a model or adapter."""
    together = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in MADE_OF and file.is_file():
            together.update(f"{file.name} {file_digest(file)}\n".encode())
    return together.hexdigest()
