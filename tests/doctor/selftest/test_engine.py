"""The self-test's engine on a CPU: real vLLM, verl's own transfer of weights."""

import subprocess
import sys

import pytest

from tests.helpers import PROJECT

pytestmark = pytest.mark.e2e

RUN = """
import functools

import verl
from verl_leaf.models import FAMILIES
from verl_leaf.doctor.selftest import engine

if __name__ == "__main__":
    {change}
    for finding in engine.engine(FAMILIES["qwen2_audio"], "cpu"):
        print(f"{{finding.what}}: {{finding.remedy}}")
"""


def findings(folder, change: str) -> dict[str, str]:
    """In a process of its own: the engine starts others, which import its main file."""
    script = folder / "run.py"
    script.write_text(RUN.format(change=change))
    command = [sys.executable, script]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split(": ", 1) for line in done.stdout.splitlines() if " qwen2_audio: " in line)


def test_rollout_and_actor_agree_and_weights_arrive(tmp_path):
    found = findings(tmp_path, "pass")
    assert found == {"rollout and actor qwen2_audio": "None", "weights to vLLM qwen2_audio": "None"}


@pytest.mark.thorough
def test_weights_that_do_not_arrive_are_found(tmp_path):
    """The actor learns, and vLLM keeps the weights that it was sent first."""
    found = findings(tmp_path, "engine.Server.update = functools.lru_cache(engine.Server.update)")
    assert "disagree" in found["rollout and actor qwen2_audio"]
    assert "do not reach vLLM" in found["weights to vLLM qwen2_audio"]
