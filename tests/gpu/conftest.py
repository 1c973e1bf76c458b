"""Without a GPU these tests are collected and skipped. They need torch, transformers, peft and hydra-core, not verl or vLLM:

python -m pytest tests/gpu -s
"""

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="no GPU"))
