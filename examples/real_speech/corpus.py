"""The corpus of the bridge's training: sentences that synthetic voices speak, and actors' dialogues."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from examples.real_speech import acted, sentences
from examples.real_speech.exercises import composed
from examples.real_speech.voices import HELD_OUT, TRAIN, Speaker, Voices, vary
from verl_leaf.common.files import whole_file
from verl_leaf.common.progress import track

SHARD = 500
"""Clips in a file, which is written completely or not at all."""
VALIDATION = 200
"""The number of sentences that only the held-out voices speak."""
COMPOSED = 600
"""The number of sentences and questions that have a task of their own; they are spoken too."""
HELD_OUT_DIALOGUES = ("FAYE", "HENRY")
"""The characters whose dialogues are for validation."""
SEED = 0


@dataclass(frozen=True)
class Utterances:
    """Sentences and how they sound."""

    texts: list[str]
    waves: list[np.ndarray]
    """int16 at 16 kHz for each sentence."""

    def __add__(self, other: "Utterances") -> "Utterances":
        return Utterances(self.texts + other.texts, self.waves + other.waves)

    def batch(self, step: int, size: int, seed: int) -> list[int]:
        """Return the clips of a step: all of about the same length, and in an epoch each clip at most once."""
        per_epoch = max(1, len(self.texts) // size)
        epoch, number = divmod(step, per_epoch)
        rng = random.Random(f"{seed} {epoch}")
        order = sorted(range(len(self.texts)), key=lambda clip: len(self.waves[clip]) + 8_000 * rng.random())
        batches = [order[first : first + size] for first in range(0, per_epoch * size, size)]
        return rng.sample(batches, per_epoch)[number]


def make(folder: Path, clips: int) -> tuple[Utterances, dict[str, Utterances]]:
    """Return what to train on, and for validation other sentences of other voices, and dialogues of other characters.

    Files that an earlier call made are used again.

    Args:
        folder: where they are.
        clips: how many sentences synthetic voices speak; there are about 6,500, then they begin again.
    """
    texts = sentences.read()
    random.Random(SEED).shuffle(texts)
    held_out, texts = texts[:VALIDATION], texts[VALIDATION:]
    speaker = Speaker()
    training, validation = actors(folder)
    spoken = _shard(folder / "validation.pt", held_out, HELD_OUT, SEED, speaker)
    training += _shard(folder / "composed.pt", list(composed(COMPOSED)), TRAIN, SEED, speaker)
    for number, first in enumerate(range(0, clips, SHARD)):
        shard = [texts[clip % len(texts)] for clip in range(first, min(first + SHARD, clips))]
        training += _shard(folder / f"train-{number:03d}.pt", shard, TRAIN, SEED + 1 + number, speaker)
    return training, {"voices": spoken, "actors": validation}


def actors(folder: Path) -> tuple[Utterances, Utterances]:
    """Return the dialogues for training and those for validation."""
    split = Utterances([], []), Utterances([], [])
    for clip in acted.read(folder):
        part = split[clip.source.startswith(HELD_OUT_DIALOGUES)]
        part.texts.append(clip.text)
        part.waves.append(sixteen_bit(clip.wave))
    return split


def sixteen_bit(wave: np.ndarray) -> np.ndarray:
    """Return a clip with its peak at 0.7, int16."""
    return (wave * (0.7 * 32767 / np.abs(wave).max(initial=1e-6))).astype(np.int16)


def _shard(path: Path, texts: list[str], voices: Voices, seed: int, speaker: Speaker) -> Utterances:
    if not path.exists():
        rng = random.Random(seed)
        spoken = {}
        for text in track(texts, f"Speaking {path.name}", total=len(texts)):
            wave = speaker(text, voices, rng)
            if wave is not None:
                spoken[text] = torch.from_numpy(sixteen_bit(vary(wave, rng) if voices is HELD_OUT else wave))
        with whole_file(path) as partial:
            torch.save(spoken, partial)
    spoken = torch.load(path)
    return Utterances(list(spoken), [wave.numpy() for wave in spoken.values()])
