"""What adapters and merged models have in common: the names of weights."""

import os
from pathlib import Path

from verl_leaf.checks.model import model_config
from verl_leaf.models import FAMILIES, Family

PEFT_PREFIX = "base_model.model."
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def family_of_model(model: str) -> Family | None:
    if "://" in model:  # remote storage: veRL's own copy is not known here
        return None
    return FAMILIES.get(model_config(os.path.expanduser(model)).model_type)


def checkpoint_name(name: str, family: Family | None) -> str:
    return family.checkpoint_name(name) if family else name


def check_new(destination: Path) -> None:
    if destination.exists():
        raise ValueError(f"{destination} exists: delete it, or choose another --out")
