"""Parameters of tests that go through every family of models."""

import pytest

from verl_leaf.models import FAMILIES

# `bash tests/run.sh` tries the first family; the others are in --all.
EACH_FAMILY = [pytest.param(name, marks=() if name == "qwen2_audio" else pytest.mark.slow) for name in FAMILIES]
