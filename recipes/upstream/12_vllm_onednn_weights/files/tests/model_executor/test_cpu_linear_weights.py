# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""The weights of linear layers on the CPU can be kept, for a trainer to update."""

import pytest
import torch

from vllm.model_executor.layers.utils import (
    cpu_unquantized_gemm,
    dispatch_cpu_unquantized_gemm,
)
from vllm.platforms import current_platform


@pytest.mark.skipif(not current_platform.is_cpu(), reason="CPU only")
@pytest.mark.parametrize("onednn", ["0", "1"])
def test_weights_are_kept_without_onednn(monkeypatch, onednn):
    monkeypatch.setenv("VLLM_CPU_ONEDNN_LINEAR", onednn)
    layer = torch.nn.Linear(64, 32, bias=False).requires_grad_(False)
    x, weight = torch.randn(4, 64), layer.weight.clone()
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    product = cpu_unquantized_gemm(layer, x, layer.weight)
    torch.testing.assert_close(product, x @ weight.T)
    if onednn == "0":
        layer.weight.copy_(2 * weight)  # as a trainer does between steps
        product = cpu_unquantized_gemm(layer, x, layer.weight)
        torch.testing.assert_close(product, 2 * x @ weight.T)
