"""One process group backend on the CPU."""

import pytest
import torch.distributed
from verl.plugin.platform import get_platform
from verl.utils import distributed

from verl_leaf.patches import process_group


@pytest.fixture
def address(monkeypatch, tmp_path):
    monkeypatch.setenv("DIST_INIT_METHOD", f"file://{tmp_path}/store")
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_torch_refuses_what_verl_would_ask_for(address):
    with pytest.raises(ValueError, match="Duplicate device type cpu"):
        distributed.initialize_global_process_group_ray(backend="cpu:gloo,cpu:gloo")
    distributed.initialize_global_process_group_ray()
    assert torch.distributed.get_backend() == "cpu:gloo"


def test_an_accelerator_needs_nothing(monkeypatch):
    monkeypatch.setattr(type(get_platform()), "device_name", "cuda")
    monkeypatch.setattr(distributed.initialize_global_process_group_ray, "__defaults__", (None, None))
    (hook,) = process_group.HOOKS.values()
    assert hook(distributed) == "not needed: the platform is not the CPU"
    assert distributed.initialize_global_process_group_ray.__defaults__ == (None, None)
