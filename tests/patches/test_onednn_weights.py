"""Linear weights stay replaceable in vLLM on the CPU."""

import pytest
import torch
import verl  # noqa: F401  (connects the plugin)
import vllm._custom_ops as ops
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform

from verl_leaf.patches import onednn_weights


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


def test_other_devices_need_nothing(monkeypatch):
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: False)
    (hook,) = onednn_weights.HOOKS.values()
    assert hook(ops) == "not needed: vLLM does not run on the CPU"
