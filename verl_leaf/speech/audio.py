"""The one place that turns a reference to audio into a waveform."""

import io
import os

import numpy as np
import soundfile
import soxr


class AudioError(ValueError):
    """Audio that cannot be used; the message names it and says why."""


def load_audio(reference, sampling_rate: int, root: str | None = None) -> np.ndarray:
    """Decode audio to mono at a given rate.

    Args:
        reference: a path; encoded bytes; or a Hugging Face ``Audio`` dictionary, ``{"bytes", "path"}`` as it is stored
            in parquet or ``{"array", "sampling_rate"}`` as it is decoded.
        sampling_rate: wanted rate, in Hz.
        root: folder that a relative path starts from; the working directory if None.

    Returns:
        float32 waveform ``[samples]``, channels averaged.

    Raises:
        AudioError: the file is missing or unreadable, or the waveform is empty or holds NaN or infinity.
    """
    if isinstance(reference, dict) and reference.get("array") is not None:
        name, waveform, rate = "array", np.asarray(reference["array"], dtype=np.float32), reference["sampling_rate"]
    else:
        name, source = _source(reference, root)
        try:
            waveform, rate = soundfile.read(source, dtype="float32")
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioError(f"{name}: cannot be read as audio ({error})") from error
    if waveform.ndim == 2:
        waveform = waveform.mean(axis=1)
    if waveform.size == 0:
        raise AudioError(f"{name}: holds no samples")
    if not np.isfinite(waveform).all():
        raise AudioError(f"{name}: holds NaN or infinite samples")
    if rate != sampling_rate:
        waveform = soxr.resample(waveform, rate, sampling_rate)
    return waveform


def _source(reference, root: str | None):
    """Name for messages, and what soundfile can open."""
    if isinstance(reference, dict) and reference.get("bytes") is not None:
        return reference.get("path") or "bytes", io.BytesIO(reference["bytes"])
    if isinstance(reference, bytes):
        return "bytes", io.BytesIO(reference)
    path = reference.get("path") if isinstance(reference, dict) else reference
    if not isinstance(path, str | os.PathLike):
        raise AudioError(
            f"{reference!r:.80} is no audio reference: give a path, bytes, or a dictionary with bytes, path or array"
        )
    path = os.path.join(root or "", path)
    if not os.path.isfile(path):
        raise AudioError(f"{path}: no such file")
    return path, path
