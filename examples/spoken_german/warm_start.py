"""The warm start: teach the tiny model to hear, and leave it undecided between the German words."""

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import sacrebleu
import soundfile
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor, get_cosine_schedule_with_warmup
from transformers.modeling_outputs import BaseModelOutput

from examples.spoken_german import phrases, tiny_model
from examples.spoken_german.corpus import Corpus, Utterance, swapped
from examples.spoken_german.synthesis import MAX_SECONDS, SAMPLE_RATE
from verl_leaf.common.progress import track
from verl_leaf.models import tiny
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO
from verl_leaf.models.whisper import pooled_frames

BATCH = 8
LEARNING_RATE = 2e-3
SAMPLING = {"temperature": 0.9, "top_p": 0.9}
WINDOW = round((MAX_SECONDS + 0.1) * 50)
"""Encoder positions, 20 ms each, that the longest clip needs; the full window has 1,500."""


@dataclass(frozen=True)
class Speech:
    """Utterances as model inputs: log-mel frames of a window of `WINDOW` positions, and tokens."""

    processor: Qwen2AudioProcessor
    utterances: list[Utterance]
    features: torch.Tensor
    """Log-mel frames, float `[utterances, mels, 2 * WINDOW]`."""
    mask: torch.Tensor
    """Mask of the frames, long `[utterances, 2 * WINDOW]`, 1 where there is sound."""

    @classmethod
    def load(cls, processor: Qwen2AudioProcessor, utterances: list[Utterance]) -> "Speech":
        """Read the clips and compute their features once."""
        extract, features, mask = processor.feature_extractor, [], []
        for utterance in track(utterances, "Reading", total=len(utterances)):
            wave, rate = soundfile.read(utterance.clip.path, dtype="float32")
            made = extract(
                wave,
                sampling_rate=rate,
                padding="max_length",
                max_length=2 * WINDOW * extract.hop_length,
                return_attention_mask=True,
                return_tensors="pt",
            )
            features.append(made.input_features[0])
            mask.append(made.attention_mask[0].long())
        return cls(processor, utterances, torch.stack(features), torch.stack(mask))

    @cached_property
    def frames(self) -> torch.Tensor:
        """The number of the encoder's output frames of each clip, 40 ms each."""
        return pooled_frames(self.mask.sum(-1))

    def exercises(self, source: str) -> list[phrases.Exercise]:
        """Return the data source's exercise about each utterance."""
        return [utterance.exercises[source] for utterance in self.utterances]

    def prompts(self, indices: list[int], exercises: list[phrases.Exercise]) -> list[torch.Tensor]:
        """Return the tokens of prompts about some utterances, with an audio token for each of the encoder's output frames."""
        texts = []
        for count, exercise in zip(self.frames[indices].tolist(), exercises, strict=True):
            content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": exercise.instruction}]
            conversation = [{"role": "user", "content": content}]
            text = self.processor.apply_chat_template(conversation, add_generation_prompt=True)
            texts.append(text.replace(self.processor.audio_token, self.processor.audio_token * count))
        return [torch.tensor(ids) for ids in self.processor.tokenizer(texts).input_ids]

    def tokens(self, answers: list[str]) -> list[torch.Tensor]:
        """Return the tokens of each answer and the token that ends it."""
        end = self.processor.tokenizer.eos_token
        return [torch.tensor(ids) for ids in self.processor.tokenizer([answer + end for answer in answers]).input_ids]

    def batch(
        self, indices: list[int], exercises: list[phrases.Exercise], answers: list[str]
    ) -> dict[str, torch.Tensor]:
        """Return model inputs for some utterances, each with an exercise and its answer; `labels` are the answer's tokens."""
        prompts, tokens = self.prompts(indices, exercises), self.tokens(answers)
        rows = [torch.cat(pair) for pair in zip(prompts, tokens, strict=True)]
        labels = [
            torch.cat([torch.full_like(prompt, -100), answer]) for prompt, answer in zip(prompts, tokens, strict=True)
        ]
        return {
            "input_ids": pad_sequence(rows, batch_first=True, padding_value=self.processor.tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
            "input_features": self.features[indices],
            "feature_attention_mask": self.mask[indices],
        }


@contextmanager
def window(model: Qwen2AudioForConditionalGeneration, positions: int = WINDOW) -> Iterator[None]:
    """Let the encoder see that many positions instead of 1,500, at a fraction of the cost.

    The encoder masks padding and its position table is frozen, so for clips that fit the result is the same.
    """
    tower = tiny_model.audio_tower(model)
    table, full = tower.embed_positions, tower.config.max_source_positions
    tower.embed_positions = torch.nn.Embedding.from_pretrained(table.weight[:positions], freeze=True)
    tower.config.max_source_positions = positions
    try:
        yield
    finally:
        tower.embed_positions, tower.config.max_source_positions = table, full


def log_probs(model: Qwen2AudioForConditionalGeneration, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the log-probability of each token of the answers, one after the other."""
    labels = batch["labels"][:, 1:]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1][labels != -100]
    return -functional.cross_entropy(logits, labels[labels != -100], reduction="none")


class Listener(torch.nn.Module):
    """Reader of the English words in the encoder's frames (CTC), which teaches the encoder which sounds matter.

    Without it the language model has to find out at the same time which sounds are words and where they are, which
    takes several times as long. It serves the warm start only.
    """

    def __init__(self, model: Qwen2AudioForConditionalGeneration) -> None:
        super().__init__()
        heard = [word for slot in phrases.SLOTS.values() for word in slot]
        self.indices = {word: index for index, word in enumerate(heard, start=1)}
        self.head = torch.nn.Linear(model.config.audio_config.d_model, len(heard) + 1)
        self.hook = tiny_model.audio_tower(model).register_forward_hook(self._listen)

    def _listen(self, tower: torch.nn.Module, inputs: tuple, output: BaseModelOutput) -> None:
        self.hidden = output.last_hidden_state

    def loss(self, frames: torch.Tensor, sentences: list[phrases.Sentence]) -> torch.Tensor:
        """Return the CTC loss of the sentences in the encoder's output for the last batch."""
        targets = torch.tensor([[self.indices[word] for word in sentence] for sentence in sentences])
        log_probs = self.head(self.hidden).log_softmax(-1).transpose(0, 1)
        return functional.ctc_loss(log_probs, targets, frames, torch.full_like(frames, targets.shape[1]))


def train(
    model: Qwen2AudioForConditionalGeneration,
    speech: Speech,
    steps: int,
    seed: int = 0,
    learning_rate: float = LEARNING_RATE,
) -> None:
    """Train in the short window on random answers, drawn anew at each step, and on hearing the words.

    The clips of a batch take turns with their exercises. `learning_rate` is that of the language model, which needs a
    lower one the wider it is; the encoder has `LEARNING_RATE`.
    """
    rng = random.Random(seed)
    listener = Listener(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad] + [*listener.parameters()]
    hearing = {*tiny_model.audio_tower(model).parameters(), *listener.parameters()}
    groups = [
        {"params": [parameter for parameter in parameters if parameter in hearing]},
        {"params": [parameter for parameter in parameters if parameter not in hearing], "lr": learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(50, steps // 10), steps)
    batches: list[list[int]] = []
    model.train()
    with window(model):
        for step in track(range(steps), "Warm start", total=steps):
            if not batches:
                batches = _batches_by_length(speech.frames.tolist(), rng)
            indices = batches.pop()
            utterances = [speech.utterances[index] for index in indices]
            turns = [list(utterance.exercises.values()) for utterance in utterances]
            exercises = [turn[(step + place) % len(turn)] for place, turn in enumerate(turns)]
            answers = [exercise.undecided(rng) for exercise in exercises]
            answering = -log_probs(model, speech.batch(indices, exercises, answers)).mean()
            listening = listener.loss(speech.frames[indices], [utterance.sentence for utterance in utterances])
            optimizer.zero_grad()
            (answering + listening).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    print(f"warm start: {steps} steps, last losses: answers {answering.item():.3f}, hearing {listening.item():.3f}")
    listener.hook.remove()
    model.eval()


def _batches_by_length(lengths: list[int], rng: random.Random) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], rng.random()))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    rng.shuffle(batches)
    return batches


@torch.inference_mode()
def answer(
    model: Qwen2AudioForConditionalGeneration, speech: Speech, source: str, sampling: dict[str, float] | None
) -> list[str]:
    """Return the model's answer to a data source's question about each utterance, greedy or sampled."""
    tokenizer = speech.processor.tokenizer
    prompts = speech.prompts(list(range(len(speech.utterances))), speech.exercises(source))
    pad, longest = tokenizer.pad_token_id, max(len(prompt) for prompt in prompts)
    padded = torch.stack([functional.pad(prompt, (longest - len(prompt), 0), value=pad) for prompt in prompts])
    with window(model):
        tokens = model.generate(
            input_ids=padded,
            attention_mask=(padded != pad).long(),
            input_features=speech.features,
            feature_attention_mask=speech.mask,
            max_new_tokens=48,
            **({"do_sample": True, "top_k": 0, **sampling} if sampling else {"do_sample": False}),
        )
    return tokenizer.batch_decode(tokens[:, longest:], skip_special_tokens=True)


@torch.inference_mode()
def window_error(
    model: Qwen2AudioForConditionalGeneration, speech: Speech, source: str = phrases.NAME, clips: int = 8
) -> float:
    """Return the largest difference between log-probabilities of the references in the short and in the full window."""
    indices = list(range(min(clips, len(speech.utterances))))
    exercises = speech.exercises(source)[: len(indices)]
    batch = speech.batch(indices, exercises, [exercise.reference for exercise in exercises])
    with window(model):
        short = log_probs(model, batch)
    waves = [soundfile.read(speech.utterances[index].clip.path, dtype="float32")[0] for index in indices]
    made = speech.processor.feature_extractor(
        waves, sampling_rate=SAMPLE_RATE, return_attention_mask=True, return_tensors="pt"
    )
    batch["input_features"], batch["feature_attention_mask"] = made.input_features, made.attention_mask
    return (log_probs(model, batch) - short).abs().max().item()


def measure(
    model: Qwen2AudioForConditionalGeneration,
    speech: Speech,
    swapped: Speech,
    source: str = phrases.NAME,
    sampling: dict[str, float] = SAMPLING,
    passes: int = 4,
    seed: int = 0,
) -> dict[str, float]:
    """Measure how well the model hears, and how far its answers are from the references, with right and with wrong audio.

    `slots_heard` is measured on greedy answers, `reference_share` on the sampled decisions that are acceptable and had
    a choice.

    Raises:
        RuntimeError: the log-probabilities differ between the full and the short window.
    """
    torch.manual_seed(seed)
    exercises = speech.exercises(source)
    references = [[exercise.reference for exercise in exercises]]
    options = [option for exercise in exercises for option in exercise.options]

    def heard(answers: list[str]) -> list[str | None]:
        return [said for exercise, text in zip(exercises, answers, strict=True) for said in exercise.heard(text)]

    def share_heard(answers: list[str]) -> float:
        return round(float(np.mean([wording is not None for wording in heard(answers)])), 4)

    def bleu(passed: list[list[str]]) -> float:
        return round(float(np.mean([sacrebleu.corpus_bleu(answers, references).score for answers in passed])), 2)

    greedy = answer(model, speech, source, None)
    own = [answer(model, speech, source, sampling) for _ in range(passes)]
    others = [answer(model, swapped, source, sampling) for _ in range(passes)]
    right = [
        said == next(iter(option))
        for answers in own
        for said, option in zip(heard(answers), options, strict=True)
        if said is not None and len(option) > 1
    ]
    error = window_error(model, speech, source)
    if error > 1e-4:
        raise RuntimeError(
            f"the full window gives other log-probabilities than the short one: they differ by {error:.1e}"
        )
    return {
        "slots_heard": share_heard(greedy),
        "slots_heard_swapped_audio": share_heard(answer(model, swapped, source, None)),
        "bleu": bleu(own),
        "bleu_greedy": bleu([greedy]),
        "bleu_swapped_audio": bleu(others),
        "reference_share": round(sum(right) / max(1, len(right)), 4),
        "window_error": error,
    }


def make(
    folder: Path,
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    corpus: Corpus,
    steps: int,
    learning_rate: float = LEARNING_RATE,
    measure: Callable[[Qwen2AudioForConditionalGeneration, Speech, Speech], dict] = measure,
) -> None:
    """Warm-start a random model, measure it on the held-out clips, and save it with a `warmstart.json`.

    Without any steps the model stays random.
    """
    began = time.monotonic()
    report = {"parameters": model.num_parameters(), "clips": len(corpus.train), "steps": steps}
    if steps:
        train(model, Speech.load(processor, corpus.train), steps, learning_rate=learning_rate)
        report |= measure(model, Speech.load(processor, corpus.val), Speech.load(processor, swapped(corpus.val)))
    else:
        tiny_model.make_audible(model)
    report["seconds"] = round(time.monotonic() - began, 1)
    tiny.save(QWEN2_AUDIO, model, processor, folder)
    (folder / "warmstart.json").write_text(json.dumps(report, indent=2) + "\n")
    print("warm start: " + ", ".join(f"{name} {value}" for name, value in report.items()))
