"""The self-test on a CPU, where the same numbers must come out."""

import itertools

import pytest
import torch

from verl_leaf.doctor.selftest import actors, parts
from verl_leaf.models import FAMILIES
from verl_leaf.training.sharing import log_probs


@pytest.mark.slow
def test_all_is_well():
    findings = [
        *parts.attention("cpu", lengths=range(64, 96, 16), heads=2),
        *parts.log_probabilities("cpu", vocabulary=512, tokens=600),
        *itertools.chain(*(parts.actor(family, "cpu") for family in FAMILIES.values())),
    ]
    assert [finding.remedy for finding in findings] == [None] * (3 + len(FAMILIES))


def test_wrong_log_probabilities_are_found(monkeypatch):
    monkeypatch.setattr(parts, "log_probs", lambda *arguments: log_probs.log_probs(*arguments) + 1e-3)
    (finding,) = parts.log_probabilities("cpu", vocabulary=64, tokens=80)
    assert "wrong" in finding.remedy


@pytest.mark.slow
def test_an_actor_that_rounds_too_much_is_found(monkeypatch):
    """A GPU whose bf16 kernels are wrong: here, one that adds noise to bf16 models."""
    exact = actors.response_log_probs

    def noisy(model, rollouts, share):
        values = exact(model, rollouts, share)
        is_bf16 = next(model.parameters()).dtype == torch.bfloat16
        return values + 0.1 if is_bf16 else values

    monkeypatch.setattr(actors, "response_log_probs", noisy)
    (finding,) = parts.actor(FAMILIES["qwen2_audio"], "cpu")
    assert "fp32" in finding.remedy
