"""Speech from text with eSpeak NG, through the shared library that the PyPI package `espeakng-loader` contains.

eSpeak NG is GPL-3.0. Only this example uses it, and only if it is installed.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from verl_leaf.common.files import whole_file
from verl_leaf.common.progress import track

SAMPLE_RATE = 16_000
MAX_SECONDS = 2.6

_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _PITCH = 1, 3
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Clip:
    """A text to be spoken, the voice, and the file of the recording."""

    text: str
    voice: str
    """The eSpeak NG voice with a variant, such as "en-us+f2"."""
    words_per_minute: int
    pitch: int
    """The pitch, 0 to 100."""
    path: Path


class Synthesizer:
    """eSpeak NG in this process. Its state is global, so have only one of these, and use it from one thread.

    Args:
        max_seconds: duration of the longest clip that it may speak.
    """

    def __init__(self, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        try:
            import espeakng_loader
        except ImportError as error:
            raise ImportError("the spoken examples need eSpeak NG. Run pip install espeakng-loader") from error
        data = espeakng_loader.get_data_path()
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DONT_EXIT)
        if self._rate <= 0:
            raise RuntimeError(f"eSpeak NG did not start with its data in {data}")
        self._samples: list[np.ndarray] = []
        self._callback = _CALLBACK(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, count: int, events) -> int:
        if samples and count:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def __call__(self, clip: Clip) -> np.ndarray:
        """Speak the clip, and return it: float32 at 16 kHz, silence trimmed at both ends, peak at 0.7.

        Raises:
            ValueError: the voice is unknown, nothing was spoken, or it takes longer than `max_seconds`.
        """
        library, text = self._library, clip.text.encode()
        if library.espeak_SetVoiceByName(clip.voice.encode()) != 0:
            raise ValueError(f"eSpeak NG has no voice {clip.voice!r}")
        library.espeak_SetParameter(_RATE, clip.words_per_minute, 0)
        library.espeak_SetParameter(_PITCH, clip.pitch, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._samples.clear()
        library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _UTF8, None, None)
        wave = np.concatenate(self._samples or [np.zeros(0, np.int16)]).astype(np.float32)
        loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max(initial=1.0))
        if not len(loud):
            raise ValueError(f"eSpeak NG said nothing for {clip.text!r} in voice {clip.voice!r}")
        margin = self._rate // 20
        wave = soxr.resample(wave[max(0, loud[0] - margin) : loud[-1] + margin], self._rate, SAMPLE_RATE)
        if len(wave) > self._max_seconds * SAMPLE_RATE:
            seconds = len(wave) / SAMPLE_RATE
            raise ValueError(f"{clip.text!r} takes {seconds:.2f} s, more than {self._max_seconds} s: {clip}")
        return 0.7 * wave / np.abs(wave).max()


def write_clips(clips: list[Clip]) -> None:
    """Write those of the clips that do not exist yet, as 16-bit wav files."""
    missing = [clip for clip in clips if not clip.path.exists()]
    if not missing:
        return
    speak = Synthesizer()
    for clip in track(missing, "Speaking", total=len(missing)):
        with whole_file(clip.path) as partial:
            soundfile.write(partial, speak(clip), SAMPLE_RATE, subtype="PCM_16", format="WAV")
