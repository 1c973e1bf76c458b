"""What a new shape costs attention, with cuDNN's and without: the reason why the actor turns it off and rounds lengths."""

import pytest
import torch
from torch.nn import functional as F

from tests.gpu.timing import seconds


def attend(length: int, mask: bool) -> None:
    """Forward and backward of a layer of Qwen2-Audio's language model, bf16."""
    query, key, value = (
        torch.randn(1, 32, length, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
    )
    seen = torch.ones(length, length, dtype=torch.bool, device="cuda").tril()[None, None] if mask else None
    F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=not mask).sum().backward()


def new_and_known(cudnn: bool, mask: bool) -> tuple[float, float]:
    """Seconds for thirty shapes when they come for the first time, and again."""
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    attend(512, mask)  # the first call loads kernels
    lengths = range(600, 1080, 16)
    return tuple(sum(seconds(attend, length, mask) for length in lengths) for _ in range(2))


@pytest.mark.parametrize("mask", [False, True])
def test_what_a_new_shape_costs(mask):
    for cudnn in (True, False):
        new, known = new_and_known(cudnn, mask)
        print(f"\ncuDNN {cudnn}, mask {mask}: new {1e3 * new / 30:.1f} ms per shape, known {1e3 * known / 30:.1f} ms")
    assert not torch.backends.cuda.cudnn_sdp_enabled()
