"""What several tests need: the spoken task with a random model, made once."""

import functools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers import PROJECT

# The tensors of tests are tiny: threads would only wait for each other.
torch.set_num_threads(1)
# What vLLM 0.24.0 imports (model_hosting_container_standards) would silence warnings, caplog's among them.
os.environ["SAGEMAKER_CONTAINER_LOG_LEVEL"] = "WARNING"


def pytest_collection_modifyitems(items):
    """Fast first: what installs environments comes later, what runs real engines last."""
    items.sort(key=lambda item: [item.get_closest_marker(slow) is not None for slow in ("e2e", "install")])


@pytest.fixture(autouse=True)
def warnings_are_heard():
    """By caplog, whatever an earlier test has imported or run.

    verl's main stops its loggers from propagating (verl/utils/logging_utils.py), and verl's vLLM server raises the level
    of the root logger when it is imported (verl/workers/rollout/vllm_rollout).
    """
    logging.getLogger("verl").propagate = True
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def task(tmp_path_factory) -> Path:
    """Folder with ``model/`` and ``data/`` of the spoken task, the model random."""
    folder = tmp_path_factory.mktemp("task")
    prepare = [sys.executable, "-m", "examples.spoken_german.prepare"]
    subprocess.run([*prepare, "--out", folder, "--clips", "32", "--steps", "0"], cwd=PROJECT, check=True)
    return folder


@pytest.fixture(scope="session")
def models(task, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a tiny random model of a family, made when first asked for."""
    from verl_leaf.models import FAMILIES  # the adapters' environments lack what this imports

    @functools.cache
    def model(family: str) -> Path:
        if family == json.loads((task / "model/config.json").read_text())["model_type"]:
            return task / "model"
        if FAMILIES[family].missing:
            pytest.skip(f"{family} {FAMILIES[family].missing}: bash tests/versions/gpu_versions.sh runs this")
        folder = tmp_path_factory.mktemp(family)
        # In a process of its own: building replaces what the tests of patches look at.
        command = [sys.executable, "-m", "tests.helpers.tiny_models", family, task / "model", folder]
        subprocess.run(command, cwd=PROJECT, check=True)
        return folder

    return model


@pytest.fixture(scope="session")
def processor(task):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(task / "model")
