"""What several tests need: the spoken task with a random model, made once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

# The tensors of tests are tiny: threads would only wait for each other.
torch.set_num_threads(1)

PROJECT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items):
    """Fast first: what runs real engines comes last."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


@pytest.fixture(scope="session")
def task(tmp_path_factory) -> Path:
    """Folder with ``model/`` and ``data/`` of the spoken task, the model random."""
    folder = tmp_path_factory.mktemp("task")
    prepare = PROJECT / "examples/spoken_german/prepare.py"
    subprocess.run([sys.executable, prepare, "--out", folder, "--clips", "32", "--steps", "0"], check=True)
    return folder


@pytest.fixture(scope="session")
def processor(task):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(task / "model")
