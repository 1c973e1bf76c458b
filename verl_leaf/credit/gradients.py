"""Gradients of tokens' log-probabilities, as factors of their inner products (:func:`verl_leaf.credit.signal.signals`).

*Last layer*: with the state ``h`` before it and the probabilities ``p`` after it, the gradient of a token ``y`` is
``(e_y - p) h^T``, so a forward pass is enough. The vector over the vocabulary is sketched with random signs, which
preserve inner products: for vectors of lengths ``a`` and ``b`` the error has a standard deviation of at most ``a b
sqrt(2 / SKETCH)``.

*LoRA*: derivatives along random signs for all parameters, by forward-mode autograd, with one pass per direction for all
tokens. They preserve inner products with the same error, with ``DIRECTIONS`` in place of ``SKETCH``.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from verl_leaf.checks.model import model_config
from verl_leaf.credit.signal import Prompt
from verl_leaf.evaluate.data import DATA_CONFIG
from verl_leaf.evaluate.systems import System
from verl_leaf.models import FAMILIES, features
from verl_leaf.speech.prompt import render_prompt

SKETCH = 512
DIRECTIONS = 512
ROWS = 16  # rows of a forward pass
RANK, ALPHA = 64, 128  # of a new adapter, as in the paper


class TokenGradients:
    """A model like the actor, in evaluation mode.

    Args:
        lora: True for gradients of LoRA. A model without an adapter gets a new one, whose first step moves only half of it.
        temperature: divisor of the logits.
        seed: seed of the random signs and of a new adapter.
    """

    def __init__(self, system: System, lora: bool, temperature: float, seed: int):
        from transformers import AutoProcessor

        assert system.model is not None
        config = model_config(str(system.model))
        self.family, self.temperature = FAMILIES[config.model_type], temperature
        self.processor = AutoProcessor.from_pretrained(system.model)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        actor: Any = self.family.load_hf_class()
        self.base = actor.from_pretrained(system.model, dtype=dtype, attn_implementation="eager")
        self.model = self.base
        torch.manual_seed(seed)
        if system.adapter:
            from peft import PeftModel

            self.model = PeftModel.from_pretrained(self.base, str(system.adapter))
        elif lora:
            from peft import LoraConfig, get_peft_model

            targets, exclude = list(self.family.lora_targets), self.family.lora_exclude
            adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, exclude_modules=exclude)
            self.model = get_peft_model(self.base, adapter)
        self.model = self.model.to(self.device).eval()
        self.draw = torch.Generator(device=self.device).manual_seed(seed)
        self.lora = {name: value for name, value in self.model.named_parameters() if lora and "lora_" in name}
        vocabulary = self.base.get_output_embeddings().weight.shape[0]
        self.signs = None if vocabulary <= SKETCH else self._signs(SKETCH, vocabulary) / SKETCH**0.5

    def _signs(self, *shape: int) -> Tensor:
        return torch.randint(2, shape, generator=self.draw, device=self.device).float() * 2 - 1

    def factors(self, messages: list[dict], prompt: Prompt) -> list[Tensor]:
        """Return the factors of the edges of the rollouts of a prompt's messages, each ``[E, n]`` float32."""
        text, clips, _ = render_prompt(self.processor, messages, DATA_CONFIG)
        ids, audio = self.family.encode(self.processor, text, clips)
        _, places = prompt.edges()
        needed = places[:, 0].unique()  # rollouts in which some edge occurs first
        parts: list[list[Tensor]] = []
        order = []
        for rows in needed.split(ROWS):
            here = torch.isin(places[:, 0], rows)
            order.append(here.nonzero()[:, 0])
            where = torch.searchsorted(rows, places[here, 0]).to(self.device), places[here, 1].to(self.device)
            inputs = self._inputs(ids, audio, prompt.tokens[rows])
            factors_of = self._of_lora if self.lora else self._of_last_layer
            parts.append(factors_of(inputs, len(ids), where))
        back = torch.cat(order).argsort().to(self.device)
        return [torch.cat(factor)[back] for factor in zip(*parts, strict=True)]

    def _inputs(self, ids: list[int], audio: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
        """Return the inputs of the model for the rows ``[n, T]`` of responses to one prompt."""
        n = len(tokens)
        whole = torch.cat([torch.tensor(ids).expand(n, -1), tokens], 1)
        inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
        if audio:
            inputs |= features.concatenate([audio] * n)
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _logits(self, inputs: dict[str, Tensor], forward: Callable) -> Tensor:
        return forward(**inputs, use_cache=False).logits.float() / self.temperature

    @torch.no_grad()
    def _of_last_layer(self, inputs: dict[str, Tensor], begin: int, where: tuple[Tensor, Tensor]) -> list[Tensor]:
        states: list[Tensor] = []
        hook = self.base.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
        try:
            logits = self._logits(inputs, self.model)
        finally:
            hook.remove()
        row, position = where
        at = position + begin
        chances = logits[row, at - 1].softmax(-1)
        tokens = inputs["input_ids"][row, at]
        if self.signs is None:
            score = torch.nn.functional.one_hot(tokens, chances.shape[1]) - chances
        else:
            score = self.signs[:, tokens].T - chances @ self.signs.T
        return [score, states[0][row, at - 1].float()]

    def _of_lora(self, inputs: dict[str, Tensor], begin: int, where: tuple[Tensor, Tensor]) -> list[Tensor]:
        row, position = where
        at = position + begin
        tokens = inputs["input_ids"][row, at]

        def log_probs(parameters: dict[str, Tensor]) -> Tensor:
            def forward(**inputs):
                return torch.func.functional_call(self.model, parameters, (), inputs)

            return self._logits(inputs, forward)[row, at - 1].log_softmax(-1).gather(1, tokens[:, None])[:, 0]

        parameters = {name: value.detach() for name, value in self.lora.items()}
        along = [torch.func.jvp(log_probs, (parameters,), (signs,))[1] for signs in self._directions()]
        return [torch.stack(along, 1) / DIRECTIONS**0.5]

    def _directions(self) -> Iterator[dict[str, Tensor]]:
        """Yield random signs, which are the same at every call."""
        state = torch.Generator(device=self.device).manual_seed(self.draw.initial_seed() + 1)
        for _ in range(DIRECTIONS):
            yield {
                name: (torch.randint(2, value.shape, generator=state, device=self.device) * 2 - 1).to(value.dtype)
                for name, value in self.lora.items()
            }
