"""What several tests need: the spoken task with a random model, made once."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.helpers import PROJECT

# The tensors of tests are tiny: threads would only wait for each other.
torch.set_num_threads(1)
# What vLLM 0.24.0 imports (model_hosting_container_standards) would silence warnings, caplog's among them.
os.environ["SAGEMAKER_CONTAINER_LOG_LEVEL"] = "WARNING"


def pytest_collection_modifyitems(items):
    """Fast first; what installs environments comes later, what runs real engines last, long files before short ones."""

    def is_slow(item, *markers: str) -> bool:
        return any(item.get_closest_marker(marker) for marker in markers)

    engines = Counter(item.path for item in items if is_slow(item, "e2e"))
    items.sort(
        key=lambda item: (is_slow(item, "e2e"), is_slow(item, "install"), is_slow(item, "e2e") * -engines[item.path])
    )


@pytest.fixture(autouse=True)
def warnings_are_heard():
    """Let caplog see log records, whatever an earlier test has imported or run.

    verl's main stops its loggers from propagating (verl/utils/logging_utils.py), and verl's vLLM server raises the level
    of the root logger when it is imported (verl/workers/rollout/vllm_rollout).
    """
    logging.getLogger("verl").propagate = True
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def make_once(request, tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return the folder of a name, filled when first asked for, by one of the processes that run tests side by side."""
    base = tmp_path_factory.getbasetemp()
    shared = (
        base.parent if hasattr(request.config, "workerinput") else base
    )  # pytest-xdist's workers have folders in it

    def make_once(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make_once


@pytest.fixture(scope="session")
def task(make_once) -> Path:
    """Folder with ``model/`` and ``data/`` of the spoken task, the model random."""
    prepare = [sys.executable, "-m", "examples.spoken_german.prepare", "--clips", "32", "--steps", "0", "--out"]
    return make_once("task", lambda folder: subprocess.run([*prepare, folder], cwd=PROJECT, check=True))


@pytest.fixture(scope="session")
def models(task, make_once) -> Callable[[str], Path]:
    """The folder of a tiny random model of a family, made when first asked for."""
    from verl_leaf.models import FAMILIES  # the adapters' environments lack what this imports

    def model(family: str) -> Path:
        if family == json.loads((task / "model/config.json").read_text())["model_type"]:
            return task / "model"
        if FAMILIES[family].missing:
            lane = f"bash tests/versions/lane.sh {FAMILIES[family].extra}"
            pytest.skip(f"{family} {FAMILIES[family].missing}: {lane} runs this")
        # In a process of its own: building replaces what the tests of patches look at.
        command = [sys.executable, "-m", "tests.helpers.tiny_models", family, task / "model"]
        return make_once(family, lambda folder: subprocess.run([*command, folder], cwd=PROJECT, check=True))

    return model


@pytest.fixture(scope="session")
def processor(task):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(task / "model")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A process group of this process."""
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    before = dict(os.environ)
    os.environ |= here
    store = f"file://{tmp_path_factory.mktemp('group')}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ |= before
