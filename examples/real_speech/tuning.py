"""Stage B: low-rank matrices of the language model learn to follow instructions about what is heard."""

import random
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2AudioProcessor

from examples.real_speech.convert import Weights
from examples.real_speech.corpus import COMPOSED, Utterances
from examples.real_speech.encoder import Encoder
from examples.real_speech.exercises import composed, exercise
from examples.real_speech.training import Training
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO
from verl_leaf.models.qwen2_audio.hf import Qwen2AudioForConditionalGeneration

BATCH = 8
RANK = 12
TARGETS = ["q_proj", "v_proj"]
LORA_RATE, PROJECTOR_RATE, ENCODER_RATE = 2e-3, 3e-4, 2e-4
CHECK_EVERY, CHECKED = 100, 16


class Tuner:
    """Trains the language model's low-rank matrices, the projector, and those of the encoder.

    Args:
        model: the model, after stage A; it is changed.
        processor: its processor.
        data: what to train on.
        path: file of the state.
        seed: for the low-rank matrices, the order of the clips, their disturbances and the exercises.
    """

    def __init__(
        self,
        model: Qwen2AudioForConditionalGeneration,
        processor: Qwen2AudioProcessor,
        data: Utterances,
        path: Path,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self._tasks = composed(COMPOSED)
        self._model, self._processor, self._data, self._seed = model, processor, data, seed
        parts = getattr(model, "model", model)
        self._encoder, self._projector, self._language = (
            Encoder(model, processor),
            parts.multi_modal_projector,
            parts.language_model,
        )
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS), self._language)
        self._projector.requires_grad_(True)
        rates = {"language_model": LORA_RATE, "multi_modal_projector": PROJECTOR_RATE, "audio_tower": ENCODER_RATE}
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._training = Training(
            "stage B",
            path,
            [
                ({name: weight for name, weight in trained.items() if part in name}, rate)
                for part, rate in rates.items()
            ],
        )
        self.progress = self._training.progress

    def train(self, steps: int, validation: dict[str, Utterances]) -> None:
        """Train up to ``steps`` batches."""
        self._training.run(steps, self._loss, lambda: self._check(validation), CHECK_EVERY)

    def bridge(self) -> Weights:
        """Return what was trained, as :func:`examples.real_speech.assemble.cross` takes it."""
        tensors = {}
        for name, weight in self._training.weights.items():
            name = QWEN2_AUDIO.checkpoint_name(name)
            module, lora, part = name.partition(".lora_")
            if lora:
                # The product is scaled by lora_alpha / rank = 2.
                tensors[f"{module}.weight.lora_{part[0]}"] = weight.detach() * (2 if part[0] == "B" else 1)
            else:
                tensors[name] = weight.detach()
        return tensors

    def _loss(self, step: int) -> torch.Tensor:
        rng = random.Random(f"{self._seed} {step}")
        return self._loss_of(self._data, self._data.batch(step, BATCH, self._seed), rng, rng)

    def _loss_of(
        self, data: Utterances, chosen: list[int], rng: random.Random, disturbances: random.Random | None
    ) -> torch.Tensor:
        tokenizer = self._processor.tokenizer
        rows, answers = [], []
        heard = self._encoder([data.waves[clip] for clip in chosen], disturbances)
        for clip, frames in zip(chosen, heard, strict=True):
            instruction, answer = exercise(data.texts[clip], self._tasks, rng)
            tokens = tokenizer(answer + tokenizer.eos_token, return_tensors="pt").input_ids[0]
            before, after = prompt(self._processor, instruction)
            rows.append(
                torch.cat([self._embed(before), self._projector(frames), self._embed(torch.cat([after, tokens[:-1]]))])
            )
            answers.append(tokens)
        inputs = pad_sequence(rows, batch_first=True)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
        hidden = self._language(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state
        spoken = [
            hidden[i, len(row) - len(own) : len(row)] for i, (row, own) in enumerate(zip(rows, answers, strict=True))
        ]
        return functional.cross_entropy(self._model.lm_head(torch.cat(spoken)), torch.cat(answers))

    def _check(self, validation: dict[str, Utterances]) -> str:
        found = ""
        with torch.no_grad():
            for name, data in validation.items():
                loss = self._loss_of(data, data.batch(0, CHECKED, self._seed), random.Random(0), None)
                found += f", {name} {loss.item():.3f}"
        return found

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._model.get_input_embeddings()(tokens)


def prompt(processor: Qwen2AudioProcessor, instruction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens before and after the audio of a prompt."""
    content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": instruction}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return tuple(
        processor.tokenizer(part, return_tensors="pt").input_ids[0] for part in text.split(processor.audio_token)
    )
