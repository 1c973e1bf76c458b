"""vLLM's LoRA on the CPU gives what it gave, without a copy of the adapter for every token."""

import pytest
import torch
import verl  # noqa: F401  (connects the plugin)
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.lora.layers import LoRAMapping
from vllm.lora.ops import torch_ops
from vllm.lora.punica_wrapper import punica_cpu

from tests.helpers.changed import without
from verl_leaf.patches import lora_on_cpu
from verl_leaf.patches.base import SOLVED

WIDTH, RANK, SLICES, SCALE = 64, 8, (48, 16), 0.5


class Largest(TorchDispatchMode):
    """How many elements the largest tensor had that was made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def added(adapter_of_each_token: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, int]:
    """Return a two-slice layer's output with adapters 1 and 2, and the largest tensor on the way; 0 means none."""
    torch.manual_seed(0)
    tokens = len(adapter_of_each_token)
    a = tuple(torch.randn(2, 1, RANK, WIDTH, dtype=dtype) for _ in SLICES)
    b = tuple(torch.randn(2, 1, size, RANK, dtype=dtype) for size in SLICES)
    x, y = torch.randn(tokens, WIDTH, dtype=dtype), torch.randn(tokens, sum(SLICES), dtype=dtype)
    wrapper = punica_cpu.PunicaWrapperCPU(1024, 64, "cpu")
    wrapper.update_metadata(LoRAMapping(adapter_of_each_token, (1,), is_prefill=True), [1, 2], 2, 100)
    with Largest() as largest:
        wrapper.add_lora_linear(y, x, a, b, SCALE, SLICES)
    return y, largest.elements


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "adapters, copies",
    [((1,) * 200, False), ((2,) * 200, False), ((0,) * 200, False), ((1,) * 120 + (2,) * 80, True)],
    ids=["the first", "the second", "none", "both"],
)
def test_numbers_are_vllms(needed, monkeypatch, adapters, copies, dtype):
    ours, largest = added(adapters, dtype)
    assert (largest >= 200 * RANK * WIDTH) == copies
    for name in ("sgmv_shrink", "sgmv_expand_slice"):
        monkeypatch.setattr(punica_cpu, name, getattr(torch_ops, name))
    vllms, largest = added(adapters, dtype)
    torch.testing.assert_close(ours, vllms)
    assert (largest >= 200 * RANK * WIDTH) == any(adapters)


def test_it_stands_down_where_neither_product_copies():
    (hook,) = lora_on_cpu.HOOKS.values()
    other = without(punica_cpu, "bgmv_shrink")
    other.bgmv_shrink = torch_ops.sgmv_shrink
    assert hook(other).startswith("active")
    other.bgmv_expand_slice = torch_ops.sgmv_shrink
    assert hook(other) == SOLVED
