# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""The torch LoRA ops make no copy of an adapter for each token if a batch has one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vllm.lora.ops import torch_ops

TOKENS, WIDTH, RANK, SLICE, SCALE = 200, 64, 8, 48, 0.5


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dims", [3, 4])
@pytest.mark.parametrize("adapters", [(0,), (1,), (0, 1)])
def test_products_and_copies(adapters, dims, dtype):
    torch.manual_seed(0)
    lengths = torch.tensor([TOKENS // len(adapters)] * len(adapters))
    indices = torch.tensor(adapters)
    of_token = torch.repeat_interleave(indices, lengths)
    shape = (2, 1) if dims == 4 else (2,)
    lora_a = torch.randn(*shape, RANK, WIDTH, dtype=dtype)
    lora_b = torch.randn(*shape, SLICE, RANK, dtype=dtype)
    x = torch.randn(TOKENS, WIDTH, dtype=dtype)
    y = torch.randn(TOKENS, SLICE + 16, dtype=dtype)
    a, b = (each.reshape(2, *each.shape[-2:])[of_token] for each in (lora_a, lora_b))
    shrunk = SCALE * torch.einsum("bi,boi->bo", x, a)
    expected = y.clone()
    expected[:, 8 : 8 + SLICE] += torch.einsum("bi,boi->bo", shrunk, b)

    starts = torch.cumsum(lengths, 0) - lengths
    segments = (starts, lengths, indices, len(adapters), int(lengths.max()), TOKENS)
    prefill, decode = y.clone(), y.clone()
    buffer = torch.zeros(TOKENS, RANK, dtype=dtype)
    with LargestTensor() as largest:
        torch_ops.sgmv_shrink(x, lora_a, buffer, *segments, SCALE)
        torch_ops.sgmv_expand_slice(buffer, lora_b, prefill, *segments, 8, SLICE, True)
        torch_ops.bgmv_shrink(x, lora_a, buffer, of_token, SCALE)
        torch_ops.bgmv_expand_slice(buffer, lora_b, decode, of_token, 8, SLICE, True)
        whole = torch.zeros(TOKENS, SLICE, dtype=dtype)
        torch_ops.bgmv_expand(buffer, lora_b, whole, of_token, True)
    torch.testing.assert_close(prefill, expected)
    torch.testing.assert_close(decode, expected)
    torch.testing.assert_close(whole, torch.einsum("bi,boi->bo", shrunk, b))
    assert (largest.elements >= TOKENS * RANK * SLICE) == (len(adapters) > 1)


def test_no_tokens():
    empty = torch.zeros(0, dtype=torch.long)
    buffer = torch.zeros(0, RANK)
    x, lora_a = torch.zeros(0, WIDTH), torch.ones(2, RANK, WIDTH)
    torch_ops.bgmv_shrink(x, lora_a, buffer, empty)
