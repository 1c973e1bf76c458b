"""A reference policy's parameters need no pinned memory on the CPU."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from verl.plugin.platform import get_platform
from verl.workers.engine.fsdp import transformer_impl

from verl_leaf.patches import ref_offload


@pytest.fixture
def mesh(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_fsdp2_runs_with_the_policy_that_verl_gets(mesh):
    def output(policy):
        layer = torch.nn.Linear(4, 4)
        fully_shard(layer, mesh=mesh, offload_policy=policy)
        return layer(torch.ones(1, 4))

    with pytest.raises(RuntimeError, match="accelerator|NVIDIA driver"):  # torch's builds for CPUs and for CUDA
        output(CPUOffloadPolicy(pin_memory=True))
    assert output(transformer_impl.CPUOffloadPolicy(pin_memory=True)).shape == (1, 4)


def test_an_accelerator_needs_nothing(monkeypatch):
    monkeypatch.setattr(type(get_platform()), "device_name", "cuda")
    (hook,) = ref_offload.HOOKS.values()
    assert hook(transformer_impl) == "not needed: there is an accelerator"
