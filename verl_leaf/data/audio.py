"""Decoding of audio references to waveforms."""

import io
import numbers
import os
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

from verl_leaf.data.headers import (
    SOX,
    Window,
    behind_xing_tag,
    data_length,
    end_of_tags,
    first_mp3_frame,
    mp3_length,
    with_xing_tag,
)
from verl_leaf.data.references import AudioError, absolute_audio, audio_name, contents

MAX_SECONDS = 3600  # no longer stretch is decoded at once
MAX_AMPLITUDE = 16  # full scale is 1, and loud recordings exceed it a little; integers stored as floats have far more
MAX_CHANNELS = 64
SAMPLING_RATES = range(1000, 768_001)  # Hz; other rates are signs of damage
MATROSKA = b"\x1aE\xdf\xa3"  # the first bytes of webm
PRE_ROLL = 1.0  # seconds that an m4a decoder needs before the requested start
FRAME = 0.025  # seconds: the window of a spectrogram
SILENCE = 4 / 2**15  # peak to peak: dithered digital silence at 16 bits
CLIPPED = 0.75  # root mean square to peak: 0.71 in a sine, less in speech, 1 in a square wave
BLOCK = 2**16  # frames that are decoded at a time, so that memory depends on a file's content and not on its header
UNRECOGNISED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT
MP3_DELAY = 4 * 1152  # upper bound of the samples that encoders add at both ends and decoders remove
UNKNOWN_FRAMES = 2**36 - 1  # largest number that flac can state; libsndfile reports 2**63 - 1 if a header states none

Blocks = Iterator[np.ndarray]  # float32 [frames, channels] each


def load_audio(
    reference, sampling_rate: int, root: str | None = None, start: float = 0.0, seconds: float = MAX_SECONDS + 1
) -> np.ndarray:
    """Decode audio to mono at a given rate.

    The format is detected from the content, not from the name. soundfile reads wav, flac, ogg, mp3 and others; PyAV
    (``pip install av``) reads m4a, webm and the output of ``sox -p``.

    Args:
        reference: a path, or a ``file:`` or ``data:`` URI; encoded bytes, or base64 of them; a binary file, which is
            read from its start and left open; or a Hugging Face ``Audio`` dictionary: ``{"bytes", "path"}`` as stored
            in parquet, where the bytes take precedence, or ``{"array", "sampling_rate"}`` as decoded. The array is
            ``[samples]``, or has a second axis for the channels, the shorter one. Floats have full scale at 1. Integers
            are scaled by their type as in soundfile: int8, int16, int32, and uint8 around 128. Python integers and
            int64 carry no scale. They are read as 16-bit samples if the peak is between 2^8 and 2^15 (or 0), and
            rejected otherwise.
        sampling_rate: sampling rate of the result, in Hz.
        root: folder from which a relative path starts; the working directory if None.
        start: time at which to start, in seconds.
        seconds: longest duration to decode.

    Returns:
        The float32 waveform ``[samples]``, averaged over channels.

    Raises:
        AudioError: the file is missing, unreadable or cut off; the waveform is empty, has no known scale, or contains
            NaN or infinity; or the requested stretch is longer than ``MAX_SECONDS``.
    """
    reference = absolute_audio(reference, root or "")
    name = audio_name(reference)
    try:
        rate, blocks = _open(name, reference, start)
    except OSError as error:
        raise AudioError(f"{name}: the file cannot be read ({error.strerror or error})") from error
    resampler = None
    if rate != sampling_rate:
        resampler = soxr.ResampleStream(rate, sampling_rate, num_channels=1, dtype="float32")
    left = round(min(seconds, MAX_SECONDS + 1) * rate)
    parts = []
    for block in blocks:
        block = block[:left]
        _check_samples(name, block)
        mono = block.mean(axis=1)
        parts.append(resampler.resample_chunk(mono) if resampler else mono)
        left -= len(mono)
        if left <= 0:
            break
    if resampler:
        parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    waveform = np.concatenate([np.zeros(0, np.float32), *parts])
    if waveform.size == 0:
        raise AudioError(f"{name}: there are no samples" + (f" after {start:g} s" if start else ""))
    if len(waveform) > MAX_SECONDS * sampling_rate:
        raise AudioError(f"{name}: the audio lasts more than {MAX_SECONDS} s. Cut it into shorter files")
    return waveform


def unheard(waveform: np.ndarray, sampling_rate: int) -> str | None:
    """Return why nothing can be heard in a clip, float32 ``[samples]``, or None if something can."""
    if len(waveform) < FRAME * sampling_rate:
        return f"it lasts {1000 * len(waveform) / sampling_rate:.1f} ms, less than one frame of features"
    if np.ptp(waveform) <= SILENCE:
        if abs(waveform[0]) <= SILENCE:
            return "it is silent"
        return f"it has the constant value {waveform[0]:.2g}, which is silence"
    centred = waveform - waveform.mean()
    if centred.std() > CLIPPED * np.abs(centred).max():
        return "it is clipped throughout, with nearly all samples at the peak"
    return None


def _check_samples(name: str, block: np.ndarray) -> None:
    if not np.isfinite(block).all():
        raise AudioError(f"{name}: there are NaN or infinite samples")
    peak = np.abs(block).max(initial=0)
    if peak > MAX_AMPLITUDE:
        raise AudioError(
            f"{name}: the samples reach {peak:g}, but full scale is 1. If they were integers, divide them by the full scale of "
            "their type"
        )


def _open(name: str, reference, start: float) -> tuple[int, Blocks]:
    """Return the sampling rate, and the blocks from ``start`` seconds on."""
    if isinstance(reference, dict) and reference.get("array") is not None:
        return _open_array(name, reference["array"], reference.get("sampling_rate"), start)
    source = _source(name, reference)
    begin = end_of_tags(source)
    length = data_length(source, begin)
    if length is not None and length.is_cut_off():
        raise AudioError(f"{name}: the audio is cut off after {length.actual} of {length.stated} bytes")
    source.seek(0)
    head = source.read(12)
    source.seek(0)
    if head[4:8] == b"ftyp":
        return _open_av(name, source, start, "mp4")
    if head[:4] == MATROSKA:
        return _open_av(name, source, start, "webm")
    if head[:4] in SOX:
        return _open_av(name, source, start, "sox")
    window = Window(source, begin)
    if length is not None and length.is_unknown():
        window = length.corrected(source, begin)
    return _open_soundfile(name, window, start, begin)


def _open_array(name: str, array, rate, start: float) -> tuple[int, Blocks]:
    try:
        samples = _scaled(name, np.asarray(array))
    except (TypeError, RuntimeError, ValueError) as error:  # raised by NumPy, or by a tensor
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{name}: this is not an array of numbers ({error})") from error
    if samples.ndim not in (1, 2) or not isinstance(rate, numbers.Real):
        raise AudioError(
            f"{name}: the array needs one or two axes and a sampling_rate, got {samples.shape} and {rate!r}"
        )
    if samples.size == 0:
        raise AudioError(f"{name}: there are no samples")
    samples = np.atleast_2d(samples)
    if samples.shape[0] < samples.shape[1]:
        samples = samples.T
    _check_header(name, rate, samples.shape[1])
    hertz = float(rate)
    return int(hertz), iter([samples[round(start * hertz) :]])


def _scaled(name: str, array: np.ndarray) -> np.ndarray:
    """Return samples as float32 with full scale at 1."""
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinity is reported later
            return array.astype(np.float32)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype.kind != "i":
        raise AudioError(f"{name}: {array.dtype} is not a type of samples. Give float32, int16 or int32")
    bits = 8 * array.dtype.itemsize
    if bits == 64:
        peak = max(abs(int(array.min(initial=0))), abs(int(array.max(initial=0))))
        if peak != 0 and not 2**8 <= peak <= 2**15:
            raise AudioError(
                f"{name}: the integers, up to {peak}, have an unknown scale and are too "
                f"{'small' if peak < 2**8 else 'large'} for 16-bit samples. Give an array of a smaller type, such as int16 or "
                "int32, or floats with full scale at 1"
            )
        bits = 16
    return (array / 2 ** (bits - 1)).astype(np.float32)


def _source(name: str, reference) -> io.IOBase:
    if isinstance(reference, io.IOBase) and not isinstance(reference, io.TextIOBase):
        return reference
    data, path = contents(reference)
    if data is not None:
        return io.BytesIO(data)
    if path is None:
        raise AudioError(
            f"{reference!r:.80} is not an audio reference. Give a path, bytes, or a dictionary with bytes, path or array"
        )
    if not os.path.isfile(path):  # the path may be a folder
        raise AudioError(f"{name}: no such file")
    return open(path, "rb")


def _check_header(name: str, rate, channels: int) -> None:
    if rate not in SAMPLING_RATES or not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"{name}: {rate} Hz with {channels} channel(s) is not plausible: the reader supports {SAMPLING_RATES[0]} to "
            f"{SAMPLING_RATES[-1]} Hz and 1 to {MAX_CHANNELS} channels"
        )


class _File(soundfile.SoundFile):
    """A file that seeks only if that is exact.

    After each block soundfile seeks to its current position (0.14.0, SoundFile._cdata_io). For mp3, libmpg123 then
    continues only near that position; if the length is unknown, the seek fails at the end of the file.
    """

    def is_mp3(self) -> bool:
        return self.subtype.startswith("MPEG")

    def has_length(self) -> bool:
        return self.frames < UNKNOWN_FRAMES

    def seekable(self) -> bool:
        return super().seekable() and self.has_length() and not self.is_mp3()


def _open_soundfile(name: str, window: Window, start: float, begin: int) -> tuple[int, Blocks]:
    try:
        file, begin = _open_file(window, begin)
        is_exact = file.has_length() and not file.is_mp3()
        if file.format == "MP3":
            is_exact = behind_xing_tag(window.file, begin) > begin
            frames, samples = mp3_length(window.file, begin)
            if samples > 1.01 * file.frames + MP3_DELAY:
                file, is_exact = _File(with_xing_tag(window.file, begin, frames)), False
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: it cannot be read as audio ({error.error_string or 'damaged'})") from error
    _check_header(name, file.samplerate, file.channels)
    return file.samplerate, _soundfile_blocks(name, file, round(start * file.samplerate), is_exact)


def _open_file(window: Window, begin: int) -> tuple[_File, int]:
    """Open a format that libsndfile recognises, or an mp3 that starts later, and return the file and its start."""
    try:
        return _File(window), begin
    except soundfile.LibsndfileError as error:
        frame = first_mp3_frame(window.file, begin) if error.code == UNRECOGNISED else None
        if frame is None:
            raise
        return _File(Window(window.file, frame)), frame


def _soundfile_blocks(name: str, file: _File, start: int, is_exact: bool) -> Blocks:
    """Yield the blocks of a file; raise AudioError if it has less audio than libsndfile reports, unless that is an estimate."""
    read = 0
    try:
        if start and file.seekable():
            read = file.seek(min(start, file.frames))
        while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
            skip, read = max(0, start - read), read + len(block)
            if skip < len(block):
                yield block[skip:]
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{name}: it cannot be read to its end, because it is damaged or cut off ({error})") from error
    if is_exact and read < 0.99 * file.frames:
        raise AudioError(f"{name}: the audio is cut off after {read} of {file.frames} samples")


def _open_av(name: str, source: io.IOBase, start: float, container: str) -> tuple[int, Blocks]:
    try:
        import av
    except ImportError:
        raise AudioError(
            f"{name}: the format is {container}, which needs PyAV. Run pip install 'verl-leaf[m4a]'"
        ) from None
    try:
        file = av.open(source, format=container)
        stream = file.streams.audio[0]
        if stream.codec_context is None:
            raise ValueError("its codec is unknown")
        rate, channels = stream.rate, stream.channels
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise AudioError(f"{name}: it cannot be read as audio ({error})") from error
    _check_header(name, rate, channels)
    return rate, _av_blocks(name, file, stream, start)


def _av_blocks(name: str, file, stream, start: float) -> Blocks:
    import av

    to_float = av.AudioResampler(format="fltp")
    skip, end = None, 0.0
    try:
        if start > PRE_ROLL:
            file.seek(int((start - PRE_ROLL) * av.time_base))
        for frame in file.decode(stream):
            if skip is None:
                skip = max(0, round((start - (frame.time or 0.0)) * stream.rate))
            end = (frame.time or 0.0) + frame.samples / frame.sample_rate
            for part in to_float.resample(frame):
                _check_header(name, part.sample_rate, part.layout.nb_channels)
                block = part.to_ndarray().T[skip:]
                skip = max(0, skip - part.samples)
                if len(block):
                    yield block
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{name}: it cannot be read to its end, because it is damaged or cut off ({error})") from error
    stated = float((stream.duration or 0) * stream.time_base) or (file.duration or 0) / av.time_base
    if end < 0.99 * stated:
        raise AudioError(f"{name}: the audio is cut off after {end:.2f} of {stated:.2f} s")
