"""The one place that turns a reference to audio into a waveform."""

import io
import os
import re
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

MAX_SECONDS = 3600  # no longer stretch is decoded in one go
MAX_CHANNELS = 64
SAMPLING_RATES = range(1000, 768_001)  # Hz; others are taken for damage
PRE_ROLL = 1.0  # seconds that an m4a decoder gets to hear before what is wanted
BLOCK = 2**16  # frames that are decoded at a time: memory follows what a file holds, not what its header claims

Blocks = Iterator[np.ndarray]  # float32 [frames, channels] each


class AudioError(ValueError):
    """Audio that cannot be used; the message names it and says why."""


def load_audio(
    reference, sampling_rate: int, root: str | None = None, start: float = 0.0, seconds: float = MAX_SECONDS
) -> np.ndarray:
    """Decode audio to mono at a given rate.

    soundfile reads wav, flac, ogg, mp3 and others, whatever the name says; PyAV reads m4a (``pip install av``).

    Args:
        reference: a path; encoded bytes; or a Hugging Face ``Audio`` dictionary, ``{"bytes", "path"}`` as it is stored
            in parquet or ``{"array", "sampling_rate"}`` as it is decoded, the array ``[samples]`` or with an axis of
            channels, the shorter one.
        sampling_rate: wanted rate, in Hz.
        root: folder that a relative path starts from; the working directory if None.
        start: where to begin, in seconds.
        seconds: at most how much to decode; no more than ``MAX_SECONDS``.

    Returns:
        float32 waveform ``[samples]``, channels averaged.

    Raises:
        AudioError: the file is missing, unreadable or cut off, or the waveform is empty or holds NaN or infinity.
    """
    name = audio_name(reference, root)
    rate, blocks = _open(name, reference, root, start)
    resampler = None
    if rate != sampling_rate:
        resampler = soxr.ResampleStream(rate, sampling_rate, num_channels=1, dtype="float32")
    left = round(min(seconds, MAX_SECONDS) * rate)
    parts = []
    for block in blocks:
        mono = block[:left].mean(axis=1)
        if not np.isfinite(mono).all():
            raise AudioError(f"{name}: holds NaN or infinite samples")
        parts.append(resampler.resample_chunk(mono) if resampler else mono)
        left -= len(mono)
        if left <= 0:
            break
    if resampler:
        parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    waveform = np.concatenate([np.zeros(0, np.float32), *parts])
    if waveform.size == 0:
        raise AudioError(f"{name}: holds no samples" + (f" after {start:g} s" if start else ""))
    return waveform


def audio_name(reference, root: str | None = None) -> str:
    """What to call a reference in messages: its path, if it has one."""
    path = reference.get("path") if isinstance(reference, dict) else reference
    if isinstance(path, str | os.PathLike):
        return os.path.join(root or "", path)
    return "audio array" if isinstance(reference, dict) and reference.get("array") is not None else "audio bytes"


def _open(name: str, reference, root: str | None, start: float) -> tuple[int, Blocks]:
    """Sampling rate and the blocks from ``start`` seconds on."""
    if isinstance(reference, dict) and reference.get("array") is not None:
        waveform, rate = np.asarray(reference["array"], dtype=np.float32), reference.get("sampling_rate")
        if waveform.ndim > 2 or rate is None:
            raise AudioError(f"{name}: needs one or two axes and a sampling_rate, got {waveform.shape} and {rate}")
        waveform = np.atleast_2d(waveform)
        if waveform.shape[0] < waveform.shape[1]:
            waveform = waveform.T
        if waveform.size:
            _check_header(name, rate, waveform.shape[1])
        return rate, iter([waveform[round(start * rate) :]])
    source = _source(name, reference, root)
    head = source.read(12)
    source.seek(0)
    return (_open_mp4 if head[4:8] == b"ftyp" else _open_soundfile)(name, source, start)


def _source(name: str, reference, root: str | None) -> io.BufferedIOBase:
    if isinstance(reference, dict) and reference.get("bytes") is not None:
        reference = reference["bytes"]
    if isinstance(reference, bytes):
        return io.BytesIO(reference)
    path = reference.get("path") if isinstance(reference, dict) else reference
    if not isinstance(path, str | os.PathLike):
        raise AudioError(
            f"{reference!r:.80} is no audio reference: give a path, bytes, or a dictionary with bytes, path or array"
        )
    path = os.path.join(root or "", path)
    if not os.path.isfile(path):  # the name may be a folder's
        raise AudioError(f"{name}: no such file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({error.strerror})") from error


def _check_header(name: str, rate, channels: int) -> None:
    if rate not in SAMPLING_RATES or not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"{name}: {rate} Hz and {channels} channel(s) are not believable; read are {SAMPLING_RATES[0]} to "
            f"{SAMPLING_RATES[-1]} Hz and 1 to {MAX_CHANNELS} channels"
        )


def _open_soundfile(name: str, source: io.BufferedIOBase, start: float) -> tuple[int, Blocks]:
    try:
        file = soundfile.SoundFile(source)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: raw data, which soundfile asks to be described
        raise AudioError(f"{name}: cannot be read as audio ({str(error).split('>: ')[-1] or 'damaged'})") from error
    _check_header(name, file.samplerate, file.channels)
    return file.samplerate, _soundfile_blocks(name, file, round(start * file.samplerate))


def _soundfile_blocks(name: str, file: soundfile.SoundFile, start: int) -> Blocks:
    """Raises AudioError where libsndfile or the header knows of more audio than there is."""
    # libsndfile's log says by how much a wav or aiff file is shorter than its header has it; that of a recording that
    # was piped claims the most there can be.
    for claimed, found in re.findall(r": (\d+) \(should be (\d+)\)", file.extra_info):
        if int(found) < 0.99 * int(claimed) < 0x7FFF0000:
            raise AudioError(f"{name}: is cut off; it holds {found} of {claimed} bytes")
    try:
        read = file.seek(min(start, file.frames)) if start else 0
        while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
            read += len(block)
            yield block
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{name}: cannot be read to its end, it is damaged or cut off ({error})") from error
    # mp3 may state an estimate
    if file.format != "MP3" and read < 0.99 * file.frames < 2**60:
        raise AudioError(f"{name}: is cut off; it holds {read} of {file.frames} samples")


def _open_mp4(name: str, source: io.BufferedIOBase, start: float) -> tuple[int, Blocks]:
    try:
        import av
    except ImportError:
        raise AudioError(f"{name}: is m4a, which needs PyAV: pip install 'verl-leaf[m4a]'") from None
    try:
        container = av.open(source, format="mp4")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise ValueError("its codec is unknown")
        rate, channels = stream.rate, stream.channels
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise AudioError(f"{name}: cannot be read as audio ({error})") from error
    _check_header(name, rate, channels)
    return rate, _mp4_blocks(name, container, stream, start)


def _mp4_blocks(name: str, container, stream, start: float) -> Blocks:
    import av

    to_float = av.AudioResampler(format="fltp")
    skip = None
    try:
        if start > PRE_ROLL:
            container.seek(int((start - PRE_ROLL) * av.time_base))
        for frame in container.decode(stream):
            if skip is None:
                skip = max(0, round((start - (frame.time or 0.0)) * stream.rate))
            for part in to_float.resample(frame):
                _check_header(name, part.sample_rate, part.layout.nb_channels)
                block = part.to_ndarray().T[skip:]
                skip = max(0, skip - part.samples)
                if len(block):
                    yield block
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{name}: cannot be read to its end, it is damaged or cut off ({error})") from error
