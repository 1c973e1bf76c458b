"""Stage B: the projector and low-rank matrices of the language model learn to follow instructions about what is heard."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from examples.real_speech.assemble import PROJECTOR
from examples.real_speech.convert import Weights
from examples.real_speech.corpus import Utterances
from examples.real_speech.ctc import words
from verl_leaf.common.files import whole_file
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO

REPEAT = ("Repeat what you hear.", "Write down what is said.", "What is said?", "Transcribe the recording.")
COUNT = "How many words do you hear?"
FIRST, LAST = "What is the first word?", "What is the last word?"
REPEAT_SHARE = 0.8
BATCH = 8
RANK = 16
TARGETS = ["q_proj", "v_proj"]
LORA_RATE, PROJECTOR_RATE = 2e-3, 3e-4
WARMUP = 15
SAVE_EVERY = 10


def exercise(text: str, rng: random.Random) -> tuple[str, str]:
    """Return an instruction about a sentence and its answer."""
    said = words(text)
    if rng.random() < REPEAT_SHARE:
        return rng.choice(REPEAT), " ".join(said)
    return rng.choice([(COUNT, str(len(said))), (FIRST, said[0]), (LAST, said[-1])])


@dataclass
class Progress:
    """How far a training has come; it continues from the file of an interrupted one."""

    step: int = 0
    cpu_seconds: float = 0.0


class Tuner:
    """Trains a model with frames of its encoder that were computed before.

    Args:
        model: the model; it is changed.
        processor: its processor.
        data: what to train on.
        seed: for the low-rank matrices, the order of the clips and the exercises.
    """

    def __init__(
        self,
        model: Qwen2AudioForConditionalGeneration,
        processor: Qwen2AudioProcessor,
        data: Utterances,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self._model, self._processor, self._data, self._seed = model, processor, data, seed
        parts = getattr(model, "model", model)
        self._projector, self._language = parts.multi_modal_projector, parts.language_model
        model.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS), self._language)
        self._projector.requires_grad_(True)
        self._trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        projector = list(self._projector.parameters())
        lora = [weight for name, weight in self._trained.items() if ".lora_" in name]
        self._optimizer = torch.optim.AdamW([{"params": projector}, {"params": lora}], weight_decay=0.0)

    def train(self, path: Path, steps: int) -> Progress:
        """Train up to ``steps`` batches; ``path`` has the state, from which an interrupted training continues.

        The learning rates rise for ``WARMUP`` steps and fall linearly to a tenth at the end.
        """
        progress = Progress()
        if path.exists():
            state = torch.load(path)
            progress = Progress(**state["progress"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._model.load_state_dict(state["weights"], strict=False)
        losses = []
        while progress.step < steps:
            began = time.process_time()
            self._set_rates(min((progress.step + 1) / WARMUP, max(0.1, 1 - progress.step / steps)))
            loss = self._loss(progress.step)
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
            self._optimizer.step()
            losses.append(loss.item())
            progress.step += 1
            progress.cpu_seconds += time.process_time() - began
            if progress.step % SAVE_EVERY == 0 or progress.step == steps:
                with whole_file(path) as partial:
                    torch.save(
                        {
                            "progress": vars(progress),
                            "optimizer": self._optimizer.state_dict(),
                            "weights": {name: weight.detach() for name, weight in self._trained.items()},
                        },
                        partial,
                    )
                recent = sum(losses[-SAVE_EVERY:]) / len(losses[-SAVE_EVERY:])
                print(f"stage B: step {progress.step}, loss {recent:.3f}, {progress.cpu_seconds:.0f} CPU s", flush=True)
        return progress

    def _set_rates(self, share: float) -> None:
        for group, rate in zip(self._optimizer.param_groups, (PROJECTOR_RATE, LORA_RATE), strict=True):
            group["lr"] = share * rate

    def bridge(self) -> Weights:
        """Return what was trained, as :func:`examples.real_speech.assemble.cross` takes it."""
        tensors = {}
        for name, weight in self._trained.items():
            name = QWEN2_AUDIO.checkpoint_name(name)
            if name.startswith(PROJECTOR):
                tensors[name] = weight.detach()
            else:
                module, _, part = name.partition(".lora_")
                # The product is scaled by lora_alpha / rank = 2.
                tensors[f"{module}.weight.lora_{part[0]}"] = weight.detach() * (2 if part[0] == "B" else 1)
        return tensors

    def _batch(self, step: int) -> list[int]:
        """Return the clips of a step: all of about the same length, and in an epoch each clip at most once."""
        count = len(self._data.texts)
        per_epoch = max(1, count // BATCH)
        epoch, number = divmod(step, per_epoch)
        rng = random.Random(f"{self._seed} {epoch}")
        order = sorted(range(count), key=lambda clip: len(self._data.frames[clip]) + 12 * rng.random())
        batches = [order[first : first + BATCH] for first in range(0, per_epoch * BATCH, BATCH)]
        return rng.sample(batches, per_epoch)[number]

    def _loss(self, step: int) -> torch.Tensor:
        rng, tokenizer = random.Random(f"{self._seed} {step}"), self._processor.tokenizer
        rows, answers = [], []
        for clip in self._batch(step):
            instruction, answer = exercise(self._data.texts[clip], rng)
            tokens = tokenizer(answer + tokenizer.eos_token, return_tensors="pt").input_ids[0]
            before, after = prompt(self._processor, instruction)
            heard = self._projector(self._data.frames[clip].float())
            rows.append(torch.cat([self._embed(before), heard, self._embed(torch.cat([after, tokens[:-1]]))]))
            answers.append(tokens)
        inputs = pad_sequence(rows, batch_first=True)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
        hidden = self._language(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state
        spoken = [
            hidden[i, len(row) - len(own) : len(row)] for i, (row, own) in enumerate(zip(rows, answers, strict=True))
        ]
        return functional.cross_entropy(self._model.lm_head(torch.cat(spoken)), torch.cat(answers))

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._model.get_input_embeddings()(tokens)


def prompt(processor: Qwen2AudioProcessor, instruction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens before and after the audio of a prompt."""
    content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": instruction}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return tuple(
        processor.tokenizer(part, return_tensors="pt").input_ids[0] for part in text.split(processor.audio_token)
    )
