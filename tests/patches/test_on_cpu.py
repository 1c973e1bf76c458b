"""On the CPU there is one process group backend, a reference policy pins no memory, and vLLM's weights stay replaceable."""

import pytest
import torch
import torch.distributed
import vllm._custom_ops as ops
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from verl.plugin.platform import get_platform
from verl.utils import distributed
from verl.workers.engine.fsdp import transformer_impl
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform

from verl_leaf.patches import on_cpu


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


def test_an_accelerator_pins_memory(monkeypatch):
    monkeypatch.setattr(type(get_platform()), "device_name", "cuda")
    assert on_cpu.HOOKS[transformer_impl.__name__](transformer_impl) == on_cpu.NOT_NEEDED


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


def test_an_accelerator_keeps_its_backends(monkeypatch):
    monkeypatch.setattr(type(get_platform()), "device_name", "cuda")
    monkeypatch.setattr(distributed.initialize_global_process_group_ray, "__defaults__", (None, None))
    assert on_cpu.HOOKS[distributed.__name__](distributed) == on_cpu.NOT_NEEDED
    assert distributed.initialize_global_process_group_ray.__defaults__ == (None, None)


def dispatched() -> torch.nn.Linear:
    layer = torch.nn.Linear(64, 64)  # fp32: for bf16 oneDNN wants more than AVX2
    layer.weight.weight_loader = lambda parameter, weight: parameter.data.copy_(weight)
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    return layer


def test_a_weight_can_be_loaded_again(monkeypatch):
    weight = dispatched().weight
    weight.weight_loader(weight, torch.ones(64, 64))
    assert weight.unique().tolist() == [1]


@pytest.mark.skipif(not hasattr(torch.ops._C, "create_onednn_mm_handler"), reason="vLLM was built without oneDNN")
def test_it_could_not_without(monkeypatch):
    monkeypatch.setattr(ops, "_supports_onednn", True)
    assert dispatched().weight.numel() == 0


def test_vllm_on_other_devices_packs_its_weights(monkeypatch):
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: False)
    assert on_cpu.HOOKS[ops.__name__](ops) == on_cpu.NOT_NEEDED
