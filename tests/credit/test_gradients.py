"""Inner products of token gradients: of the last layer from a forward pass, of LoRA along random directions, and exact ones."""

from pathlib import Path

import pytest
import torch

from verl_leaf.credit import gradients
from verl_leaf.credit.gradients import TokenGradients
from verl_leaf.credit.signal import Prompt
from verl_leaf.evaluate.data import DATA_CONFIG, Data
from verl_leaf.evaluate.systems import System
from verl_leaf.speech.prompt import render_prompt


@pytest.fixture
def data(task) -> Data:
    return Data(task / "data/val.parquet")


def rollouts(vocabulary: int = 40) -> Prompt:
    """Six responses in a tree."""
    tokens = torch.randint(5, vocabulary, (6, 4), generator=torch.Generator().manual_seed(0))
    tokens[1:4, 0], tokens[1, 1] = tokens[0, 0], tokens[0, 1]
    return Prompt(tokens, torch.tensor([4, 4, 3, 4, 2, 4]), torch.zeros(6).double(), torch.zeros(6, 4).double())


def exact(model: TokenGradients, data: Data, prompt: Prompt, parameters: list[torch.Tensor]) -> torch.Tensor:
    """The gradient of each edge, by a backward pass each."""
    text, clips, _ = render_prompt(model.processor, dict(data.messages([0]))[0], DATA_CONFIG)
    ids, audio = model.family.encode(model.processor, text, clips)
    for parameter in parameters:
        parameter.requires_grad_(True)
    rows = []
    for row, position in prompt.edges()[1].tolist():
        inputs = model._inputs(ids, audio, prompt.tokens[row : row + 1])
        at = len(ids) + position
        chances = model.model(**inputs, use_cache=False).logits[0, at - 1].float() / model.temperature
        own = torch.autograd.grad(chances.log_softmax(-1)[inputs["input_ids"][0, at]], parameters)
        rows.append(torch.cat([gradient.flatten() for gradient in own]))
    return torch.stack(rows)


def gram(factors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([factor @ factor.T for factor in factors]).prod(0)


def error(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the error of each inner product, in units of the product of lengths."""
    length = wanted.diagonal().sqrt()
    return (found - wanted) / (length[:, None] * length)


def load(task: Path, **changes) -> TokenGradients:
    return TokenGradients(
        System("m", model=task / "model"), **{"lora": False, "temperature": 1.0, "seed": 0, **changes}
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_last_layers_are_exact_without_a_sketch(task, data, monkeypatch, temperature):
    monkeypatch.setattr(gradients, "ROWS", 4)  # so that edges come from several passes
    monkeypatch.setattr(gradients, "SKETCH", 10**6)
    model, prompt = load(task, temperature=temperature), rollouts()
    found = model.factors(dict(data.messages([0]))[0], prompt)
    by_autograd = exact(model, data, prompt, [model.base.get_output_embeddings().weight])
    # The temperature divides all of the last layer's gradients, and so changes no efficiency.
    torch.testing.assert_close(gram(found) / temperature**2, by_autograd @ by_autograd.T, rtol=1e-4, atol=1e-6)


def test_sketches_are_as_near_as_they_say(task, data, monkeypatch):
    """The standard deviation of the error is at most sqrt(2 / n), for the vocabulary and for LoRA."""
    monkeypatch.setattr(gradients, "SKETCH", 128)
    monkeypatch.setattr(gradients, "DIRECTIONS", 128)
    prompt = rollouts()
    model = load(task)
    last = exact(model, data, prompt, [model.base.get_output_embeddings().weight])
    model_lora = load(task, lora=True)
    for name, parameter in model_lora.lora.items():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)  # or A has no gradient
    lora = exact(model_lora, data, prompt, list(model_lora.lora.values()))
    for own, by_autograd in ((model, last), (model_lora, lora)):
        off = error(gram(own.factors(dict(data.messages([0]))[0], prompt)), by_autograd @ by_autograd.T)
        assert 0.01 < off.square().mean().sqrt() < 1.3 * (2 / 128) ** 0.5, off
