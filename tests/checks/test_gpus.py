"""GPUs that torch cannot use are named before anything starts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import PROJECT
from verl_leaf.checks.gpus import gpu_problem, listed_gpus, main

SMI = """#!/bin/sh
case "$1" in
  --list-gpus) echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)' ;;
  *) echo 'NVIDIA H100 80GB HBM3, 550.54.15'; echo 'NVIDIA H100 80GB HBM3, 550.54.15' ;;
esac
"""
LISTED = "2 x NVIDIA H100 80GB HBM3, driver 550.54.15"


@pytest.fixture
def smi(tmp_path, monkeypatch) -> Path:
    """An nvidia-smi that lists two GPUs, first on PATH."""
    file = tmp_path / "bin/nvidia-smi"
    file.parent.mkdir()
    file.write_text(SMI)
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return file


def test_what_is_listed_has_number_name_and_driver(smi):
    assert listed_gpus() == LISTED
    smi.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert listed_gpus() is None and main() == 0


def test_a_torch_for_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    found, remedy = gpu_problem(LISTED)
    assert found == f"{LISTED}; torch {torch.__version__} is built for the CPU"
    assert remedy == "pip install 'verl-leaf[gpu]' in an environment of its own"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
@pytest.mark.parametrize(
    "cuda, driver, visible, remedy",
    [
        ("13.0", "550.54.15", None, "install driver 580 or newer, which CUDA 13.0 needs"),
        ("12.8", "550.54.15", "", "CUDA_VISIBLE_DEVICES='' may hide them. Unset it"),
        ("13.0", "580.65.06", None, r"check that `nvidia-smi` and `python -c .* both work"),
    ],
)
def test_a_torch_that_cannot_use_them(monkeypatch, cuda, driver, visible, remedy):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found, advice = gpu_problem(f"1 x NVIDIA A100, driver {driver}")
    assert found.startswith(
        f"1 x NVIDIA A100, driver {driver}; torch {torch.__version__}, built for CUDA {cuda}, cannot"
    )
    assert not found.endswith(": "), "torch's own reason"
    assert re.match(remedy, advice)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
@pytest.mark.parametrize(
    "script", ["recipes/qwen2audio_leaf.sh", "recipes/granite4.0_1b_leaf.sh", "examples/next_letter/run.sh"]
)
def test_a_recipe_stops_there(smi, tmp_path, script):
    """verl-leaf is a stand-in, so that nothing is installed, and nothing starts when the recipe would continue."""
    command = smi.with_name("verl-leaf")
    command.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    command.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "VENV"}
    environment |= {
        "TRAIN": "t.parquet",
        "VAL": "v.parquet",
        "TASK": str(tmp_path / "task"),
        "PYTHONPATH": str(PROJECT),
    }
    run = subprocess.run(["bash", PROJECT / script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith(f"GPUs: {LISTED}; torch {torch.__version__}") and run.stderr.count("\n") == 2
    assert [file.name for file in tmp_path.iterdir()] == ["bin"]
