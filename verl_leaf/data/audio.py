"""The one place that turns a reference to audio into a waveform."""

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

MAX_SECONDS = 3600  # no longer stretch is decoded in one go
MAX_AMPLITUDE = 16  # full scale is 1, and a hot recording some more; integers as floats are hundreds or thousands
MAX_CHANNELS = 64
SAMPLING_RATES = range(1000, 768_001)  # Hz; others are taken for damage
MATROSKA = b"\x1aE\xdf\xa3"  # what webm begins with
PRE_ROLL = 1.0  # seconds that an m4a decoder gets to hear before what is wanted
FRAME = 0.025  # seconds: the window of a spectrogram
SILENCE = 4 / 2**15  # peak to peak: what dithering leaves of digital silence at 16 bits
CLIPPED = 0.75  # root mean square to peak: 0.71 in a sine, less in speech, 1 in a square wave
BLOCK = 2**16  # frames that are decoded at a time: memory follows what a file holds, not what its header claims
UNRECOGNISED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT
MP3_DELAY = 4 * 1152  # samples that encoders add at both ends and decoders take away, with room to spare
UNKNOWN_FRAMES = 2**36 - 1  # the most that flac can state; libsndfile says 2**63 - 1 where a header says nothing

Blocks = Iterator[np.ndarray]  # float32 [frames, channels] each


def load_audio(
    reference, sampling_rate: int, root: str | None = None, start: float = 0.0, seconds: float = MAX_SECONDS + 1
) -> np.ndarray:
    """Decode audio to mono at a given rate.

    soundfile reads wav, flac, ogg, mp3 and others, whatever the name says; PyAV reads m4a, webm and what
    ``sox -p`` writes (``pip install av``).

    Args:
        reference: a path, or a ``file:`` or ``data:`` URI; encoded bytes, or base64 of them; a binary file, which is read from its beginning and left open; or a Hugging
            Face ``Audio`` dictionary, ``{"bytes", "path"}`` as it is stored in parquet, where the bytes count if both
            are there, or ``{"array", "sampling_rate"}`` as it is decoded. The array is ``[samples]`` or has an axis of
            channels, the shorter one. Floats have full scale at 1. Integers are scaled by their type as soundfile
            does: int8, int16, int32, and uint8 around 128. Python's integers, and int64, are taken for 16-bit samples
            if they look like it: some beyond 8 bits, none beyond 16, or all 0.
        sampling_rate: wanted rate, in Hz.
        root: folder that a relative path starts from; the working directory if None.
        start: where to begin, in seconds.
        seconds: at most how much to decode.

    Returns:
        float32 waveform ``[samples]``, channels averaged.

    Raises:
        AudioError: the file is missing, unreadable or cut off; the waveform is empty, has no known scale, or holds NaN
            or infinity; or there is more than ``MAX_SECONDS`` of what is asked for.
    """
    reference = absolute_audio(reference, root or "")
    name = audio_name(reference)
    try:
        rate, blocks = _open(name, reference, start)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror or error})") from error
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
        raise AudioError(f"{name}: holds no samples" + (f" after {start:g} s" if start else ""))
    if len(waveform) > MAX_SECONDS * sampling_rate:
        raise AudioError(f"{name}: lasts more than {MAX_SECONDS} s: cut it into shorter files")
    return waveform


def unheard(waveform: np.ndarray, sampling_rate: int) -> str | None:
    """Return why there is nothing to hear in a clip that can be read, None if there is something.

    Args:
        waveform: float32 ``[samples]``, from :func:`load_audio`.
        sampling_rate: of the waveform, in Hz.
    """
    if len(waveform) < FRAME * sampling_rate:
        return f"lasts {1000 * len(waveform) / sampling_rate:.1f} ms, less than one frame of features"
    spread = np.ptp(waveform)
    if spread <= SILENCE:
        return (
            "is silent"
            if abs(waveform[0]) <= SILENCE
            else f"has the constant value {waveform[0]:.2g}, which is silence"
        )
    centred = waveform - waveform.mean()
    if centred.std() > CLIPPED * np.abs(centred).max():
        return "is clipped throughout: nearly all samples are at the peak"
    return None


def _check_samples(name: str, block: np.ndarray) -> None:
    if not np.isfinite(block).all():
        raise AudioError(f"{name}: holds NaN or infinite samples")
    peak = np.abs(block).max(initial=0)
    if peak > MAX_AMPLITUDE:
        raise AudioError(
            f"{name}: has samples up to {peak:g}, and full scale is 1: integers that became floats are to be divided by "
            "their own full scale"
        )


def _open(name: str, reference, start: float) -> tuple[int, Blocks]:
    """Return the sampling rate and the blocks from ``start`` seconds on."""
    if isinstance(reference, dict) and reference.get("array") is not None:
        return _open_array(name, reference["array"], reference.get("sampling_rate"), start)
    source = _source(name, reference)
    begin = end_of_tags(source)
    length = data_length(source, begin)
    if length is not None and length.is_cut_off():
        raise AudioError(f"{name}: is cut off; it holds {length.found} of {length.stated} bytes")
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
    except (TypeError, RuntimeError, ValueError) as error:  # as NumPy, or the tensor that it asks, puts it
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{name}: is no array of numbers ({error})") from error
    if samples.ndim not in (1, 2) or not isinstance(rate, numbers.Real):
        raise AudioError(f"{name}: needs one or two axes and a sampling_rate, got {samples.shape} and {rate!r}")
    if samples.size == 0:
        raise AudioError(f"{name}: holds no samples")
    samples = np.atleast_2d(samples)
    if samples.shape[0] < samples.shape[1]:
        samples = samples.T
    _check_header(name, rate, samples.shape[1])
    hertz = float(rate)
    return int(hertz), iter([samples[round(start * hertz) :]])


def _scaled(name: str, array: np.ndarray) -> np.ndarray:
    """Samples as float32 with full scale at 1."""
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinity is reported later
            return array.astype(np.float32)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype.kind != "i":
        raise AudioError(f"{name}: {array.dtype} is no type of samples: give float32, int16 or int32")
    bits = 8 * array.dtype.itemsize
    if bits == 64:
        peak = max(abs(int(array.min(initial=0))), abs(int(array.max(initial=0))))
        if peak != 0 and not 2**8 <= peak <= 2**15:
            raise AudioError(
                f"{name}: holds integers up to {peak} whose scale is not known, too "
                f"{'small' if peak < 2**8 else 'large'} for 16-bit samples: give an array of their type, as int16 or "
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
            f"{reference!r:.80} is no audio reference: give a path, bytes, or a dictionary with bytes, path or array"
        )
    if not os.path.isfile(path):  # the name may be a folder's
        raise AudioError(f"{name}: no such file")
    return open(path, "rb")


def _check_header(name: str, rate, channels: int) -> None:
    if rate not in SAMPLING_RATES or not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"{name}: {rate} Hz and {channels} channel(s) are not believable; read are {SAMPLING_RATES[0]} to "
            f"{SAMPLING_RATES[-1]} Hz and 1 to {MAX_CHANNELS} channels"
        )


class _File(soundfile.SoundFile):
    """Seeks only where that is exact.

    After each block soundfile seeks to where it is (0.14.0, SoundFile._cdata_io). In mp3 libmpg123 then goes on
    somewhere near; where no length is known, it fails at the end.
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
        raise AudioError(f"{name}: cannot be read as audio ({error.error_string or 'damaged'})") from error
    _check_header(name, file.samplerate, file.channels)
    return file.samplerate, _soundfile_blocks(name, file, round(start * file.samplerate), is_exact)


def _open_file(window: Window, begin: int) -> tuple[_File, int]:
    """Open what libsndfile recognises, or else the mp3 that begins further on, and say where."""
    try:
        return _File(window), begin
    except soundfile.LibsndfileError as error:
        frame = first_mp3_frame(window.file, begin) if error.code == UNRECOGNISED else None
        if frame is None:
            raise
        return _File(Window(window.file, frame)), frame


def _soundfile_blocks(name: str, file: _File, start: int, is_exact: bool) -> Blocks:
    """Raises AudioError where there is less audio than libsndfile knows of, if that is no estimate."""
    read = 0
    try:
        if start and file.seekable():
            read = file.seek(min(start, file.frames))
        while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
            skip, read = max(0, start - read), read + len(block)
            if skip < len(block):
                yield block[skip:]
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{name}: cannot be read to its end, it is damaged or cut off ({error})") from error
    if is_exact and read < 0.99 * file.frames:
        raise AudioError(f"{name}: is cut off; it holds {read} of {file.frames} samples")


def _open_av(name: str, source: io.IOBase, start: float, container: str) -> tuple[int, Blocks]:
    try:
        import av
    except ImportError:
        raise AudioError(f"{name}: is {container}, which needs PyAV: pip install 'verl-leaf[m4a]'") from None
    try:
        file = av.open(source, format=container)
        stream = file.streams.audio[0]
        if stream.codec_context is None:
            raise ValueError("its codec is unknown")
        rate, channels = stream.rate, stream.channels
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise AudioError(f"{name}: cannot be read as audio ({error})") from error
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
        raise AudioError(f"{name}: cannot be read to its end, it is damaged or cut off ({error})") from error
    stated = float((stream.duration or 0) * stream.time_base) or (file.duration or 0) / av.time_base
    if end < 0.99 * stated:
        raise AudioError(f"{name}: is cut off; it holds {end:.2f} of {stated:.2f} s")
