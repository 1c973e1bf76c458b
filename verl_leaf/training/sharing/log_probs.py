"""Log-probabilities of tokens and functions of their distributions, in float32 and with bounded memory.

verl's own function (verl/utils/torch_functional.py logprobs_from_logits, 0.9.1) processes bf16 logits token by token if
flash-attn is not installed, and rounds the result to bf16.
"""

from collections.abc import Callable

import torch

TOKENS = 256  # number of tokens at a time; 160 MB in float32 for a vocabulary of 156,000


def log_probs(
    logits: torch.Tensor, places: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Compute the log-probabilities of tokens.

    Args:
        logits: ``[positions, vocabulary]``, of any float type.
        places: position from which each token is predicted, int64 ``[tokens]``; positions may repeat.
        tokens: ids of the tokens, int64 ``[tokens]``.
        temperature: divisor of the logits.

    Returns:
        ``[tokens]``, float32 (float64 if the logits are), with a gradient to the logits.
    """
    return _LogProbs.apply(logits, places, tokens, temperature)


def of_distributions(
    function: Callable[[torch.Tensor], torch.Tensor], logits: torch.Tensor, places: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return ``function`` of the distributions at some positions, ``[places]``; it gets ``[places, vocabulary]`` float32."""
    return torch.cat([function(_scaled(logits, part, temperature)) for part in places.split(TOKENS)])


class _LogProbs(torch.autograd.Function):
    """An autograd function that keeps no distribution for the backward pass, and adds all chunks to one gradient."""

    @staticmethod
    def forward(ctx, logits, places, tokens, temperature):
        values, normalisers = [], []
        for part, wanted in zip(places.split(TOKENS), tokens.split(TOKENS), strict=True):
            scaled = _scaled(logits, part, temperature)
            normalisers.append(scaled.logsumexp(-1))
            values.append(scaled.gather(-1, wanted[:, None])[:, 0] - normalisers[-1])
        ctx.save_for_backward(logits, places, tokens, torch.cat(normalisers))
        ctx.temperature = temperature
        return torch.cat(values)

    @staticmethod
    def backward(ctx, gradient):
        logits, places, tokens, normalisers = ctx.saved_tensors
        result = torch.zeros_like(logits)
        parts = (tensor.split(TOKENS) for tensor in (places, tokens, normalisers, gradient / ctx.temperature))
        for part, wanted, normaliser, weight in zip(*parts, strict=True):
            change = (_scaled(logits, part, ctx.temperature) - normaliser[:, None]).exp_().neg_()
            change.scatter_add_(-1, wanted[:, None], torch.ones_like(weight)[:, None])
            result.index_add_(0, part, change.mul_(weight[:, None]).to(result.dtype))
        return result, None, None, None


def _scaled(logits: torch.Tensor, places: torch.Tensor, temperature: float) -> torch.Tensor:
    chosen = logits[places]
    chosen = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    return chosen if temperature == 1.0 else chosen / temperature
