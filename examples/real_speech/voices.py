"""Sentences spoken by many voices: eSpeak NG's and flite's, faster and slower, higher and lower, with noise, by telephone."""

import random
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from examples.spoken_german.synthesis import SAMPLE_RATE, Clip, Synthesizer

MAX_SECONDS = 6.0
ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc")
ESPEAK = tuple(f"{accent}+{variant}" for accent in ACCENTS for variant in ("m1", "m2", "m4", "m5", "f1", "f3", "f4"))
FLITE = ("awb", "rms", "kal16")
HELD_OUT_ESPEAK = tuple(f"{accent}+{variant}" for accent in ACCENTS for variant in ("m3", "f2"))
HELD_OUT_FLITE = ("slt",)
FLITE_SHARE = 0.85
"""flite's voices are statistics of people's recordings. eSpeak NG's are formulas, which Whisper's encoder hears badly."""
PITCH = {"awb": 120, "rms": 100, "kal16": 100, "slt": 170}
"""The usual fundamental frequency of flite's voices, in Hz."""


@dataclass(frozen=True)
class Voices:
    """The voices of a split."""

    espeak: tuple[str, ...]
    flite: tuple[str, ...]


TRAIN, HELD_OUT = Voices(ESPEAK, FLITE), Voices(HELD_OUT_ESPEAK, HELD_OUT_FLITE)


class Speaker:
    """Speaker of sentences. Have only one, and use it from one thread (see :class:`Synthesizer`)."""

    def __init__(self) -> None:
        self._espeak = Synthesizer(MAX_SECONDS)

    def __call__(self, text: str, voices: Voices, rng: random.Random) -> np.ndarray | None:
        """Return a clip, float32 at 16 kHz; None if it is longer than ``MAX_SECONDS``."""
        if rng.random() < FLITE_SHARE:
            wave = flite(text, rng.choice(voices.flite), rng)
        else:
            voice, speed, pitch = rng.choice(voices.espeak), rng.randint(140, 210), rng.randint(25, 75)
            try:
                wave = self._espeak(Clip(text, voice, speed, pitch, Path()))
            except ValueError:  # too long
                return None
        return wave if len(wave) <= MAX_SECONDS * SAMPLE_RATE else None


def flite(text: str, voice: str, rng: random.Random) -> np.ndarray:
    """Return a clip that flite speaks, float32 at 16 kHz.

    Raises:
        SystemExit: flite is not installed.
    """
    stretch, pitch = rng.uniform(0.85, 1.2), PITCH[voice] * rng.uniform(0.85, 1.2)
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        settings = ["--setf", f"duration_stretch={stretch:.3f}", "--setf", f"int_f0_target_mean={pitch:.0f}"]
        try:
            subprocess.run(["flite", "-voice", voice, *settings, "-t", text, "-o", file.name], check=True)
        except FileNotFoundError:
            raise SystemExit("flite is not installed. Run apt-get install flite") from None
        wave, rate = soundfile.read(file.name, dtype="float32")
    return soxr.resample(wave, rate, SAMPLE_RATE)


def vary(wave: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return a clip as another throat, room or telephone might have made it, float32 with its peak at 0.7."""
    # Played faster or slower: pitch and formants move together, as they do between large and small speakers.
    wave = soxr.resample(wave, SAMPLE_RATE, SAMPLE_RATE / rng.uniform(0.88, 1.14))
    if rng.random() < 0.3:
        wave = soxr.resample(soxr.resample(wave, SAMPLE_RATE, 8_000), 8_000, SAMPLE_RATE)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(wave))
    if rng.random() < 0.5:
        noise = np.convolve(noise, np.ones(8) / 8, mode="same")  # low frequencies, as in a room
    loudness = np.sqrt(np.mean(wave**2)) * 10 ** (-rng.uniform(10, 45) / 20)
    wave = wave + noise * loudness / np.sqrt(np.mean(noise**2))
    return (0.7 * wave / np.abs(wave).max()).astype(np.float32)
