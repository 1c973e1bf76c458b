"""Without extras, the package brings torch and numpy alone, computes the README's table, and gets in nobody's way."""

import subprocess
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

from tests.helpers import PROJECT

pytestmark = pytest.mark.install
BIG = ("verl", "ray", "vllm", "transformers", "hydra", "wrapt", "rich")


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The ``bin`` of an environment with the wheel in it, and no extras."""
    folder = tmp_path_factory.mktemp("bare")
    script = """
set -euo pipefail
source recipes/common.sh
install_into "$1/venv" cpu "torch==$2"
"$1/venv/bin/uv" build --quiet --wheel --out-dir "$1" .
install_into "$1/venv" cpu "$1"/*.whl
"""
    version = torch.__version__.partition("+")[0]
    run = subprocess.run(
        ["bash", "-c", script, "bash", folder, version], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return folder / "venv/bin"


def run_in(bare: Path, *command: str) -> subprocess.CompletedProcess:
    program, *arguments = command
    return subprocess.run(
        [bare / program, *arguments],
        cwd=bare,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


def test_the_readmes_python_runs_and_imports_no_trainer(bare):
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    (block,) = [token.content for token in MarkdownIt().parse(text) if token.info == "python"]
    expected = "".join(line.removeprefix("# ") + "\n" for line in block.splitlines() if line.startswith("# "))
    run = run_in(bare, "python", "-c", f"{block}\nimport sys\nprint(sorted(set({BIG}) & sys.modules.keys()))")
    assert run.stdout == expected + "[]\n", run.stderr


def test_no_trainer_is_installed(bare):
    code = f"from importlib.metadata import distributions as d\nprint(sorted({{*{BIG}}} & {{x.name for x in d()}}))"
    assert run_in(bare, "python", "-c", code).stdout == "[]\n"


def test_a_vllm_loads_the_plugin_and_nothing_happens(bare):
    code = (
        "import sys\nfrom importlib.metadata import entry_points\n"
        "for each in entry_points(group='vllm.general_plugins'): each.load()()\n"
        f"print(sorted(set({BIG}) & sys.modules.keys()))"
    )
    run = run_in(bare, "python", "-c", code)
    assert run.stdout == "[]\n", run.stderr


def test_a_command_says_what_to_install(bare):
    run = run_in(bare, "verl-leaf", "doctor")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1 and run.stderr.startswith("verl-leaf: the commands need ")
    assert "pip install 'verl-leaf[gpu]', or 'verl-leaf[cpu]' without a GPU" in run.stderr


def test_a_verl_does_not_train_without_the_plugin_in_silence(bare):
    """verl logs the errors of plugins at DEBUG level and continues, but not after this one."""
    code = "try:\n    import verl_leaf.plugin.verl\nexcept Exception:\n    print('went on')"
    run = run_in(bare, "python", "-c", code)
    assert run.returncode == 1 and run.stdout == ""
    assert "pip install 'verl-leaf[verl]'" in run.stderr
