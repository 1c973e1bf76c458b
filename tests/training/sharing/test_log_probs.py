"""Log-probabilities in chunks are those of a softmax over everything, and so are their gradients."""

import pytest
import torch
from verl.utils.torch_functional import entropy_from_logits, logprobs_from_logits

from verl_leaf.training.sharing import log_probs as module
from verl_leaf.training.sharing.log_probs import log_probs, of_distributions


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 3)


def case(dtype):
    torch.manual_seed(0)
    logits = (4 * torch.randn(9, 23, dtype=torch.float64)).to(dtype)
    places = torch.tensor([0, 8, 3, 3, 3, 5, 1, 2])  # three tokens come from one position
    return logits.requires_grad_(), places, torch.randint(23, places.shape)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_they_are_verls(temperature):
    logits, places, tokens = case(torch.float32)
    found = log_probs(logits, places, tokens, temperature)
    expected = logprobs_from_logits(logits[places] / temperature, tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    weight = torch.linspace(-1, 2, len(places))
    ours, theirs = (torch.autograd.grad((weight * each).sum(), logits)[0] for each in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_gradient_by_finite_differences():
    logits, places, tokens = case(torch.float64)
    assert torch.autograd.gradcheck(lambda each: log_probs(each, places, tokens, 0.7), logits)


def test_bf16_logits_lose_nothing_more():
    logits, places, tokens = case(torch.bfloat16)
    found = log_probs(logits, places, tokens)
    assert found.dtype == torch.float32
    exact = logits.detach().double().requires_grad_()
    expected = log_probs(exact, places, tokens)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    ours, theirs = (torch.autograd.grad(each.sum(), own)[0] for each, own in ((found, logits), (expected, exact)))
    torch.testing.assert_close(ours.double(), theirs, rtol=0.01, atol=1e-3)


def test_a_certain_token_in_bf16_keeps_its_gradient():
    """1 - 0.999 would be 0 where it is subtracted in bf16."""
    logits = torch.tensor([[6.9, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_probs(logits, torch.tensor([0]), torch.tensor([0])).sum(), logits)
    torch.testing.assert_close(gradient[0, 0].float(), 1 - logits[0, 0].detach().float().sigmoid(), rtol=0.01, atol=0)


def test_entropies():
    logits, places, _ = case(torch.float32)
    found = of_distributions(entropy_from_logits, logits, places, 0.7)
    torch.testing.assert_close(found, entropy_from_logits(logits[places] / 0.7), rtol=0, atol=1e-6)
