"""Log-probabilities of bf16 logits with Qwen2-Audio's vocabulary: numbers, time and memory beside a softmax per token."""

import torch

from tests.gpu.timing import peak_mib, seconds
from verl_leaf.sharing.log_probs import log_probs

VOCABULARY, TOKENS = 156032, 1600


def per_token(logits, places, tokens):
    """As verl 0.9.1 does it for bf16 without flash-attn."""
    rows = [row.log_softmax(-1)[token] for row, token in zip(logits[places], tokens, strict=True)]
    return torch.stack(rows)


def test_chunks_are_exact_bounded_and_fast():
    torch.manual_seed(0)
    logits = (3 * torch.randn(TOKENS, VOCABULARY, device="cuda")).bfloat16().requires_grad_()
    places = torch.arange(TOKENS, device="cuda")
    tokens = torch.randint(VOCABULARY, (TOKENS,), device="cuda")
    expected = torch.cat([part.double().log_softmax(-1) for part in logits.detach()[:64].split(8)])
    expected = expected.gather(-1, tokens[:64, None])[:, 0]
    torch.testing.assert_close(log_probs(logits, places, tokens)[:64].double(), expected, rtol=0, atol=1e-5)

    def both(function):
        logits.grad = None
        function(logits, places, tokens).sum().backward()

    for function in (log_probs, per_token):
        both(function)  # warm
        print(f"\n{function.__name__}: {seconds(both, function):.3f} s, {peak_mib(both, function):.0f} MiB")
    one_copy = logits.numel() * logits.element_size() / 2**20
    assert peak_mib(both, log_probs) < 2.5 * one_copy, "the gradient, and a few chunks in float32"
