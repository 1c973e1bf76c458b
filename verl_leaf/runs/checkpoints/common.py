"""What adapters and merged models have in common: the names of weights, and folders that are whole or not there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def complete_or_not_at_all(destination: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when it is full."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        yield Path(scratch)
        os.chmod(scratch, 0o755)
        os.rename(scratch, destination)
        os.mkdir(scratch)  # for TemporaryDirectory to remove
