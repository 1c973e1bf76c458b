"""Damaged audio in its thousands: each must end as audio or as an AudioError, soon and in little memory.

    python -m tests.benchmarks.fuzz_audio [--cases 5000] [--seed 0]

Nine in ten are small files: every format, as written at once and as ffmpeg writes it into a pipe, some behind tags or
junk, given as bytes, as a path and as an open file, which must all end alike. The others are arrays of any type, shape
and rate. Prints how many ended how; anything else than the two is kept in a folder of its own, with the seed that makes
it again.
"""

import functools
import io
import random
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile

from tests.benchmarks import fuzzing
from verl_leaf.data.audio import AudioError, load_audio

RATE = 16000
FORMATS = [
    *(
        ("WAV", subtype)
        for subtype in ("PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")
    ),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("W64", "PCM_16"),
    ("RF64", "PCM_16"),
    ("NIST", "PCM_16"),
    ("SVX", "PCM_16"),
]
PIPED = [("wav", "pcm_s16le"), ("aiff", "pcm_s16be"), ("au", "pcm_s16be"), ("w64", "pcm_s16le"), ("caf", "pcm_s16be")]
PIPED += [("flac", "flac"), ("mp3", "libmp3lame"), ("sox", "pcm_s32le")]
LENGTHS = [0, 1, 2**15, 2**16 - 1, 0x7F000000, 0x7FFFF000, 2**31 - 1, 2**31, 2**32 - 1]


@functools.cache
def whole_files() -> list[bytes]:
    """A short tone in every format, mono and stereo."""
    tone = 0.3 * np.sin(np.arange(8000) * 0.05)
    files = []
    for waveform in (tone, np.stack([tone, tone], axis=1)):
        for name, subtype in FORMATS:
            if (subtype == "GSM610" or name == "SVX") and waveform.ndim > 1:
                continue
            buffer = io.BytesIO()
            soundfile.write(buffer, waveform, RATE, format=name, subtype=subtype)
            files.append(buffer.getvalue())
            if name == "MP3":
                files += [files[-1] + files[-1], b"ID3\3\0\0\0\0\0\x10" + bytes(100) + files[-1]]
    for container, codec in [*[("mp4", "aac")] * 4, *PIPED]:
        files.append(_written_by_ffmpeg(container, codec, tone, Pipe() if container != "mp4" else io.BytesIO()))
    return files


class Pipe:
    """A file that cannot be sought in, so that no length is filled in."""

    def __init__(self):
        self.content = bytearray()

    def write(self, data) -> int:
        self.content += bytes(data)
        return len(data)

    def getvalue(self) -> bytes:
        return bytes(self.content)


def _written_by_ffmpeg(container: str, codec: str, waveform: np.ndarray, buffer: Pipe | io.BytesIO) -> bytes:
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return buffer.getvalue()


def damage(data: bytes, generator: random.Random) -> bytes:
    """One to four wounds, most of them in the header."""
    data = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        end = len(data) if generator.random() < 0.3 else min(len(data), 256)
        where = generator.randrange(max(1, end))
        kind = generator.randrange(6)
        if kind == 0:
            data[where : where + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            number = generator.choice([*LENGTHS, generator.getrandbits(32)])
            data[where : where + 4] = number.to_bytes(4, generator.choice(["little", "big"]))
        elif kind == 2:
            del data[where : where + generator.randint(1, 64)]
        elif kind == 3:
            data[where:where] = generator.randbytes(generator.randint(1, 64))
        elif kind == 4:
            del data[generator.randrange(len(data) + 1) :]
        else:
            data[where : where + 16] = bytes(16)
    return bytes(data)


def case(seed: int) -> bytes | dict:
    """Encoded audio, or an Audio dictionary with an array."""
    generator = random.Random(seed)
    if generator.random() < 0.1:
        return array(generator)
    return damage(generator.choice(whole_files()), generator)


def array(generator: random.Random) -> dict:
    """Samples of any type, shape, range and rate, some of which are none."""
    numbers = np.random.default_rng(generator.getrandbits(32))
    shape = generator.choice([(), (0,), (1,), (400,), (400, 2), (2, 400), (3, 3), (400, 70), (2, 2, 2)])
    dtype = generator.choice([*np.typecodes["AllInteger"], *np.typecodes["Float"], "?", "F", "O", "U4", "M8[s]"])
    with np.errstate(all="ignore"):
        samples = (numbers.normal(0, 10 ** generator.uniform(-3, 12), shape)).astype("f8").astype(dtype)
    rate = generator.choice([RATE, RATE, 16000.0, 8000, np.int64(8000), 999, 0, -1, None, "16000", float("nan")])
    return {"array": generator.choice([samples, samples.tolist()]), "sampling_rate": rate}


def outcome(seed: int) -> str:
    """How a case ends, in a process whose memory and time are limited."""
    reference = case(seed)
    if isinstance(reference, dict):
        return _outcome(reference)
    with tempfile.NamedTemporaryFile(suffix=random.Random(seed).choice((".wav", ".mp3", ".au", ".raw", ""))) as file:
        file.write(reference)
        file.flush()
        outcomes = {_outcome(reference), _outcome(file.name), _outcome(file.file)}
    return outcomes.pop() if len(outcomes) == 1 else "different"


def _outcome(reference) -> str:
    try:
        waveform = load_audio(reference, RATE)
    except AudioError:
        return "AudioError"
    except Exception as error:  # what must not be; it is counted by its name
        return type(error).__name__
    good = waveform.dtype == np.float32 and waveform.ndim == 1 and len(waveform) and np.isfinite(waveform).all()
    return "audio" if good else "bad audio"


def keep(seed: int, path: Path) -> None:
    reference = case(seed)
    path.write_bytes(reference if isinstance(reference, bytes) else repr(reference).encode())


def begin() -> None:
    load_audio(whole_files()[0], RATE)


def main(arguments: list[str] | None = None) -> None:
    options = fuzzing.arguments(__doc__, cases=5000).parse_args(arguments)
    fuzzing.fuzz(options, begin, outcome, {"audio", "AudioError"}, keep)


if __name__ == "__main__":
    main()
