"""Rollout and actor choose the same experts."""

import json
import subprocess
import sys

import pytest

from tests.helpers import PROJECT
from verl_leaf.models import FAMILIES

pytestmark = pytest.mark.e2e


# In bf16, a choice between two experts that are nearly alike is a matter of rounding (verl_leaf/models/README.md).
@pytest.mark.parametrize("dtype, others, most", [("float32", 0.0, 1e-4), ("bfloat16", 0.1, 0.3)])
def test_rollout_and_actor_choose_the_same_experts(dtype, others, most):
    if missing := FAMILIES["qwen3_omni_moe"].missing:
        pytest.skip(missing)
    command = [sys.executable, "-m", "tests.helpers.experts", "qwen3_omni_moe", dtype]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["choices"] == 2 * 4 * 32
    assert found["others"] <= others and found["max"] < most, found
