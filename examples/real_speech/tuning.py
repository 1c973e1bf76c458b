"""Stages B and C: the language model learns to follow instructions about what is written among blanks, and what is heard."""

import random
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2AudioProcessor

from examples.real_speech.convert import Weights
from examples.real_speech.corpus import COMPOSED, Utterances
from examples.real_speech.ctc import Units
from examples.real_speech.encoder import Encoder
from examples.real_speech.exercises import composed, exercise
from examples.real_speech.training import Training
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO
from verl_leaf.models.qwen2_audio.hf import Qwen2AudioForConditionalGeneration

BATCH = 8
RANK = 8
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
LORA_RATE, PROJECTOR_RATE, ENCODER_RATE = 2e-3, 3e-4, 2e-4
GAP, GROWING = 3.0, 0.6
"""Blanks before each unit of stage B, on average, and the share of the steps in which they grow from 0 to that."""
NOISE = 1.0
"""The largest noise of stage B, as a multiple of an embedding's norm."""
CHECK_EVERY, CHECKED = 100, 16


class Tuner:
    """Training of the language model's low-rank matrices, the projector, and the encoder's matrices.

    Args:
        model: the model, after stage A; it is changed.
        processor: its processor.
        units: units that stage A writes with.
        data: corpus to train on.
        seed: seed of the low-rank matrices, the order of the clips, their disturbances and the exercises.
    """

    def __init__(
        self,
        model: Qwen2AudioForConditionalGeneration,
        processor: Qwen2AudioProcessor,
        units: Units,
        data: Utterances,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self._tasks = composed(COMPOSED)
        self._model, self._processor, self._units, self._data, self._seed = model, processor, units, data, seed
        self._rows = torch.tensor(processor.tokenizer.convert_tokens_to_ids(units.tokens))
        parts = getattr(model, "model", model)
        self._projector, self._language = parts.multi_modal_projector, parts.language_model
        self._encoder = Encoder(model, processor)
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS), self._language)
        self._projector.requires_grad_(True)
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._lora, self._others, self._tower = (
            {name: weight for name, weight in trained.items() if part in name}
            for part in ("language_model", "multi_modal_projector", "audio_tower")
        )

    def read(self, path: Path, steps: int) -> Training:
        """Stage B: train the language model's matrices up to ``steps`` batches of units among blanks and noise.

        Without it the language model needs many more clips until it sees the units among the blanks. It knows how to copy
        what it reads, so blanks and noise begin with none and grow. No audio is needed.
        """
        training = Training("stage B", path, [(self._lora, LORA_RATE)])

        def loss(step: int) -> torch.Tensor:
            rng = random.Random(f"{self._seed} {step}")
            texts = rng.sample(self._data.texts, BATCH)
            share = min(1.0, step / (GROWING * steps))
            return self._loss(texts, [self._written(text, GAP * share, NOISE * share, rng) for text in texts], rng)

        training.run(steps, loss, str, CHECK_EVERY)
        return training

    def train(self, path: Path, steps: int, validation: dict[str, Utterances]) -> Training:
        """Stage C: train everything up to ``steps`` batches of clips."""
        rates = (LORA_RATE, PROJECTOR_RATE, ENCODER_RATE)
        training = Training("stage C", path, list(zip((self._lora, self._others, self._tower), rates, strict=True)))

        def loss(step: int) -> torch.Tensor:
            rng = random.Random(f"{self._seed} {step}")
            chosen = self._data.batch(step, BATCH, self._seed)
            return self.loss_of_clips(self._data, chosen, rng, rng)

        training.run(steps, loss, lambda: self._check(validation), CHECK_EVERY)
        return training

    def bridge(self) -> Weights:
        """Return what was trained, as :func:`examples.real_speech.assemble.cross` takes it."""
        tensors = {}
        for name, weight in (self._lora | self._others | self._tower).items():
            name = QWEN2_AUDIO.checkpoint_name(name)
            module, lora, part = name.partition(".lora_")
            if lora:
                # The product is scaled by lora_alpha / rank = 2.
                tensors[f"{module}.weight.lora_{part[0]}"] = weight.detach() * (2 if part[0] == "B" else 1)
            else:
                tensors[name] = weight.detach()
        return tensors

    def loss_of_clips(
        self, data: Utterances, chosen: list[int], rng: random.Random, disturbances: random.Random | None = None
    ) -> torch.Tensor:
        """Return the loss of exercises about clips; ``rng`` chooses the exercises, ``disturbances`` those of the clips."""
        heard = self._encoder([data.waves[clip] for clip in chosen], disturbances)
        return self._loss([data.texts[clip] for clip in chosen], [self._projector(frames) for frames in heard], rng)

    def _written(self, text: str, gap: float, noise: float, rng: random.Random) -> torch.Tensor:
        """Return a text as stage A writes it: embeddings ``[frames, hidden]`` of units, with blanks around them."""
        written = []
        for unit in [*self._units.write(text), 0]:
            written += [0] * rng.randint(0, round(2 * gap)) + [unit]
        embedded = self._embed(self._rows[written])
        directions = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(rng.getrandbits(32)))
        size = noise * rng.random() * embedded.norm(dim=1, keepdim=True)
        return embedded + size * functional.normalize(directions, dim=1)

    def _loss(self, texts: list[str], frames: list[torch.Tensor], rng: random.Random) -> torch.Tensor:
        tokenizer = self._processor.tokenizer
        rows, answers = [], []
        for text, heard in zip(texts, frames, strict=True):
            instruction, answer = exercise(text, self._tasks, rng)
            tokens = tokenizer(answer + tokenizer.eos_token, return_tensors="pt").input_ids[0]
            before, after = prompt(self._processor, instruction)
            rows.append(torch.cat([self._embed(before), heard, self._embed(torch.cat([after, tokens[:-1]]))]))
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
                loss = self.loss_of_clips(data, data.batch(0, CHECKED, self._seed), random.Random(0))
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
