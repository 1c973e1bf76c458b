"""Without a GPU these tests are collected and skipped. They need torch, transformers, peft and hydra-core, not verl or vLLM:

python -m pytest tests/gpu -s
"""

import pytest
import torch


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="no GPU"))
