"""Tests that need only torch, transformers and peft: attention, log-probabilities, and the actors of all families.

Each test yields findings. On a CPU the same numbers are tested, but no memory is reported.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from verl_leaf.doctor.selftest import Finding, actors
from verl_leaf.models import Family
from verl_leaf.training.sharing.log_probs import log_probs

PROMPTS = ((1.2, 8), (12.0, 8))  # seconds of audio, rollouts
# Largest difference between bf16 and fp32. On a CPU it is 0.025 and 0.10 for Granite, and smaller for other families.
BF16_VALUES, BF16_GRADIENT = 0.05, 0.2


def seconds(call: Callable, *arguments) -> float:
    """Return the seconds that a call takes, including the work that it starts on the GPU."""
    _synchronise()
    start = time.perf_counter()
    call(*arguments)
    _synchronise()
    return time.perf_counter() - start


def peak_mib(call: Callable, *arguments) -> float:
    """Return the peak of GPU memory that a call adds, MiB; 0 without a GPU."""
    if not torch.cuda.is_available():
        call(*arguments)
        return 0.0
    _synchronise()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(*arguments)
    _synchronise()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def attention(device: str, lengths: range = range(600, 1080, 16), heads: int = 32) -> Iterator[Finding]:
    """Measure the cost of new shapes with and without cuDNN's attention, in layers of Qwen2-Audio's size.

    This cost is why the actor does not use cuDNN's attention, and rounds widths.
    """
    for packed in (False, True):
        rows = []
        for cudnn in (True, False):
            with _cudnn_attention(cudnn):
                _attend(device, 512, heads, packed)  # the first call loads kernels
                new, known = (
                    sum(seconds(_attend, device, length, heads, packed) for length in lengths) for _ in range(2)
                )
            first, then = (f"{1e3 * total / len(lengths):.1f} ms" for total in (new, known))
            rows.append(f"{'with' if cudnn else 'without'} cuDNN {first}, then {then}")
        yield Finding(f"attention, {'packed' if packed else 'plain'}", f"a new shape {'; '.join(rows)}")


@contextmanager
def _cudnn_attention(on: bool) -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(on)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def _attend(device: str, length: int, heads: int, packed: bool) -> None:
    query, key, value = (
        torch.randn(1, heads, length, 128, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
    )
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None] if packed else None
    F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=not packed).sum().backward()


def log_probabilities(device: str, vocabulary: int = 156032, tokens: int = 1600) -> Iterator[Finding]:
    """Test log-probabilities of bf16 logits against float64, and compare their cost with verl 0.9.1's softmax per token."""

    def per_token(logits, places, tokens):
        return torch.stack([row.log_softmax(-1)[token] for row, token in zip(logits[places], tokens, strict=True)])

    torch.manual_seed(0)
    logits = (3 * torch.randn(tokens, vocabulary, device=device)).bfloat16().requires_grad_()
    places, targets = torch.arange(tokens, device=device), torch.randint(vocabulary, (tokens,), device=device)
    exact = torch.cat([part.double().log_softmax(-1) for part in logits.detach()[:64].split(8)])
    exact = exact.gather(-1, targets[:64, None])[:, 0]
    error = (log_probs(logits, places, targets)[:64].double() - exact).abs().max().item()

    def both(function):
        logits.grad = None
        function(logits, places, targets).sum().backward()

    figures, peaks = [f"error {error:.1e}"], []
    for name, function in (("ours", log_probs), ("per token", per_token)):
        both(function)  # warm
        peaks.append(peak_mib(both, function))
        figures.append(f"{name} {1e3 * seconds(both, function):.0f} ms, {peaks[-1]:.0f} MiB")
    # The gradient of the logits, and a few chunks in float32.
    bounded = peaks[0] < 2.5 * logits.numel() * logits.element_size() / 2**20
    wrong = "report it, because log-probabilities on this GPU are wrong or take too much memory"
    yield Finding("log-probabilities", "; ".join(figures), None if error < 1e-5 and bounded else wrong)


def actor(family: Family, device: str) -> Iterator[Finding]:
    """Test a family's actor: bf16 close to fp32, packed rows equal to plain ones, and gradient checkpointing."""
    rollouts = actors.rollouts(family.model_type, PROMPTS, length=40, device=device)
    model = actors.build(family.model_type, torch.float32, device)
    values = actors.response_log_probs(model, rollouts, share=False)
    exact = actors.gradients(model, values)
    packed = actors.gradients(model, actors.response_log_probs(model, rollouts, share=True))
    sharing = actors.distance(packed, exact)
    rounded = actors.build(family.model_type, torch.bfloat16, device, checkpointing=True)

    def step(share: bool) -> torch.Tensor:
        log_probs_of_step = actors.response_log_probs(rounded, rollouts, share)
        actors.gradients(rounded, log_probs_of_step)
        return log_probs_of_step

    rounded_values = step(share=True)
    difference = (rounded_values - values).abs().mean().item()
    rounded_gradients = actors.gradients(rounded, actors.response_log_probs(rounded, rollouts, share=True))
    gradient = actors.distance(rounded_gradients, exact)
    times = [f"{1e3 * seconds(step, share):.0f} ms, {peak_mib(step, share):.0f} MiB" for share in (False, True)]
    right = difference < BF16_VALUES and gradient < BF16_GRADIENT and sharing < 1e-3
    yield Finding(
        f"actor {family.model_type}",
        f"bf16 and fp32 differ by {difference:.4f} on average, gradients by {gradient:.3f}; shared prompts by "
        f"{sharing:.0e}; a step {times[0]}, shared {times[1]}",
        None if right else "train in fp32, or report it, because this GPU's kernels do not give the CPU's numbers",
    )
