"""Damaged audio files in their thousands: each must end as audio or as an AudioError, soon and in little memory.

    python -m tests.benchmarks.fuzz_audio [--cases 5000] [--seed 0]

Prints how many ended how; anything else than the two is kept in a folder of its own, with the seed that makes it again.
"""

import argparse
import collections
import io
import multiprocessing
import random
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import av
import numpy as np
import soundfile
from tqdm import tqdm

from verl_leaf.speech.audio import AudioError, load_audio

RATE = 16000
MEMORY = 2**30  # bytes that a worker may have more than at its start
SECONDS = 20  # that a file may take
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
]


def whole_files() -> list[bytes]:
    """A short tone in every format, mono and stereo."""
    tone = 0.3 * np.sin(np.arange(8000) * 0.05)
    files = []
    for waveform in (tone, np.stack([tone, tone], axis=1)):
        for name, subtype in FORMATS:
            if subtype == "GSM610" and waveform.ndim > 1:
                continue
            buffer = io.BytesIO()
            soundfile.write(buffer, waveform, RATE, format=name, subtype=subtype)
            files.append(buffer.getvalue())
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return [*files, *[buffer.getvalue()] * 4]


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
            number = generator.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, generator.getrandbits(32)])
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


def case(seed: int) -> bytes:
    generator = random.Random(seed)
    return damage(generator.choice(_files()), generator)


def outcome(seed: int) -> str:
    """How a case ends, in a process whose memory and time are limited."""
    try:
        waveform = load_audio(case(seed), RATE)
    except AudioError:
        return "AudioError"
    except Exception as error:  # what must not be; it is counted by its name
        return type(error).__name__
    good = waveform.dtype == np.float32 and waveform.ndim == 1 and len(waveform) and np.isfinite(waveform).all()
    return "audio" if good else "bad audio"


def run(cases: int, seed: int, keep: Path | None = None) -> collections.Counter:
    """Outcomes and their number; files with another outcome than the two good ones are written to ``keep``."""
    counts = collections.Counter()
    seeds = iter(tqdm(range(seed * 10**6, seed * 10**6 + cases), unit="file"))
    pool = _pool()
    for number in seeds:
        try:
            result = pool.submit(outcome, number).result(timeout=SECONDS)
        except (BrokenProcessPool, TimeoutError) as error:
            result = "crash" if isinstance(error, BrokenProcessPool) else "hang"
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False)
            pool = _pool()
        counts[result] += 1
        if keep is not None and result not in ("audio", "AudioError"):
            (keep / f"{result}-{number}").write_bytes(case(number))
    pool.shutdown()
    return counts


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_limit_memory)


def _limit_memory() -> None:
    load_audio(whole_files()[0], RATE)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)


_cache: list[bytes] = []


def _files() -> list[bytes]:
    if not _cache:
        _cache.extend(whole_files())
    return _cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="damaged_audio_"))
    counts = run(options.cases, options.seed, folder)
    print(", ".join(f"{number} {result}" for result, number in counts.most_common()))
    if counts.keys() - {"audio", "AudioError"}:
        raise SystemExit(f"see {folder}")


if __name__ == "__main__":
    main()
