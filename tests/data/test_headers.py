"""Files that libsndfile alone does not read, or not to their end: no length, tags and junk, mp3."""

import io
import struct

import av
import numpy as np
import pytest
import soundfile

from verl_leaf.data.audio import BLOCK, AudioError, load_audio
from verl_leaf.data.headers import MAX_JUNK

RATE = 16000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
SAMPLES = np.round(TONE * 32767).astype("<i2")
LENGTH = 2 * len(SAMPLES)
UNKNOWN = [
    0,
    0x7F000000,
    0x7FFF0000,
    0x7FFFEFFA,
    0x7FFFF000,
    0x7FFFFF00,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFDB,
    0xFFFFFFFF,
]


def encoded(waveform=TONE, rate=RATE, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, **options)
    return buffer.getvalue()


def wav(riff: int, data: int, samples: bytes = SAMPLES.tobytes(), before: bytes = b"") -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    head = struct.pack("<4sI4s", b"RIFF", riff & 0xFFFFFFFF, b"WAVE") + form + before
    return head + struct.pack("<4sI", b"data", data) + samples


def au(length: int, order: str = ">") -> bytes:
    magic = {">": b".snd", "<": b"dns."}[order]
    return magic + struct.pack(f"{order}5I", 24, length, 3, RATE, 1) + SAMPLES.astype(f"{order}i2").tobytes()


def aiff(length: int) -> bytes:
    rate = b"\x40\x0c\xfa\0\0\0\0\0\0\0"  # 16000 as an 80-bit float
    common = struct.pack(">4sIHIH", b"COMM", 18, 1, length // 2, 16) + rate
    sound = (
        struct.pack(">4sIII", b"SSND", min(length and length + 8, 2**32 - 1), 0, 0) + SAMPLES.astype(">i2").tobytes()
    )
    return struct.pack(">4sI4s", b"FORM", min(length and length + 46, 2**32 - 1), b"AIFF") + common + sound


def assert_whole(content: bytes):
    np.testing.assert_array_equal(load_audio(content, RATE), SAMPLES / np.float32(2**15))


@pytest.mark.parametrize("length", UNKNOWN, ids=hex)
def test_whatever_stands_for_an_unknown_length(length):
    for riff in {0, 8, 36, length, length + 36, 0xFFFFFFFF}:
        assert_whole(wav(riff, length))
    assert_whole(wav(0xFFFFFFFF, length, before=struct.pack("<4sI6s", b"LIST", 5, b"INFOx")))
    assert_whole(au(length))
    assert_whole(au(length, "<"))
    assert_whole(aiff(length))


@pytest.mark.parametrize("length", [LENGTH + 1, LENGTH + 2], ids=hex)
def test_a_byte_more_or_less(length):
    assert_whole(wav(length + 36, length))
    assert len(load_audio(wav(LENGTH + 36, LENGTH - 1), RATE)) == RATE - 1
    assert len(load_audio(wav(0xFFFFFFFF, 0xFFFFFFFF, SAMPLES.tobytes() + b"x"), RATE)) == RATE


@pytest.mark.parametrize("length", [2 * LENGTH, 0x40000000, 3_000_000_000, 0x7FF00000, 0xFFF00000], ids=hex)
def test_a_length_that_is_meant_is_missed(length):
    for content in (wav(length + 36, length), wav(36, length), au(length), aiff(length)):
        with pytest.raises(AudioError, match=r"is cut off after \d+ of \d+ bytes"):
            load_audio(content, RATE)


def test_no_samples_are_not_made_of_what_follows():
    for after in (b"", struct.pack("<4sI6s", b"LIST", 6, b"INFO\0\0")):
        with pytest.raises(AudioError, match="there are no samples"):
            load_audio(wav(36 + len(after), 0, after), RATE)


def test_a_wrong_number_of_bytes_per_second_is_no_missing_end():
    content = bytearray(encoded(format="WAV", subtype="IMA_ADPCM"))
    content[28:32] = (10**6).to_bytes(4, "little")
    assert len(load_audio(bytes(content), RATE)) >= RATE


class Pipe:
    """What cannot go back."""

    def __init__(self):
        self.content = b""

    def write(self, data) -> int:
        self.content += bytes(data)
        return len(data)


def piped(container: str, codec: str, layout: str = "mono", **options) -> bytes:
    """A tone as ffmpeg writes it into a pipe."""
    pipe = Pipe()
    with av.open(pipe, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=RATE, layout=layout)
        for start in range(0, RATE, 4000):
            frame = av.AudioFrame.from_ndarray(SAMPLES[None, start : start + 4000], format="s16", layout=layout)
            frame.sample_rate, frame.pts = RATE, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return pipe.content


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("wav", "pcm_s16le", {}),
        ("wav", "pcm_s16le", {"rf64": "auto"}),
        ("wav", "pcm_s16le", {"rf64": "always"}),
        ("wav", "pcm_s24le", {}),
        ("wav", "pcm_f32le", {}),
        ("aiff", "pcm_s16be", {}),
        ("aiff", "pcm_s24be", {}),
        ("au", "pcm_s16be", {}),
        ("w64", "pcm_s16le", {}),
        ("caf", "pcm_s16be", {}),
        ("flac", "flac", {}),
        ("ircam", "pcm_s16le", {}),
        ("sox", "pcm_s32le", {}),
    ],
)
def test_what_ffmpeg_writes_into_a_pipe(tmp_path, container, codec, options):
    content = piped(container, codec, **options)
    assert_whole(content)
    np.testing.assert_array_equal(load_audio(content, RATE, start=0.25, seconds=0.25), SAMPLES[4000:8000] / 2.0**15)
    (tmp_path / "piped").write_bytes(content)
    assert_whole(tmp_path / "piped")


@pytest.mark.parametrize(("container", "codec"), [("wav", "adpcm_ms"), ("wav", "libmp3lame"), ("mp3", "libmp3lame")])
def test_lossy_formats_in_a_pipe(container, codec):
    waveform = load_audio(piped(container, codec), RATE)
    assert len(waveform) >= RATE and waveform.std() == pytest.approx(0.5 / 2**0.5, abs=0.05)


def test_cut_off_sox():
    content = bytearray(piped("sox", "pcm_s32le"))
    content[8:16] = RATE.to_bytes(8, "little")
    assert_whole(bytes(content))
    with pytest.raises(AudioError, match=r"is cut off after \d+ of 64000 bytes"):
        load_audio(bytes(content[: len(content) // 2]), RATE)


def id3(size: int = 33, version: int = 3, flags: int = 0, stated: int | None = None, after: bytes = b"") -> bytes:
    stated = size if stated is None else stated
    numbers = bytes(stated >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3" + bytes([version, 0, flags]) + numbers + bytes(size) + after


@pytest.mark.parametrize("name", ["WAV", "FLAC", "AIFF", "AU", "OGG", "CAF", "W64", "RF64", "MP3"])
def test_tags_before_any_format(name, tmp_path):
    content = encoded(format=name)
    for tags in (id3(), id3() + id3(300, version=4), id3(version=4, flags=0x10, after=bytes(10))):
        (tmp_path / "tagged").write_bytes(tags + content)
        for reference in (tmp_path / "tagged", tags + content):
            np.testing.assert_allclose(load_audio(reference, RATE), load_audio(content, RATE), rtol=0, atol=1e-6)
    if name in ("WAV", "AIFF", "AU", "W64", "RF64"):
        with pytest.raises(AudioError, match="cut off"):
            load_audio(id3() + content[: len(content) // 2], RATE)


def junk(count: int) -> bytes:
    return np.random.default_rng(0).bytes(count)


@pytest.mark.parametrize(
    "before",
    [
        *(bytes(1), bytes(417), bytes(MAX_JUNK - 10_000), junk(5000), b"\xff" * 100),
        *(id3() + bytes(417), id3(version=5), id3(stated=8), b"APETAGEX" + bytes(24)),
    ],
    ids=range(9),
)
def test_junk_before_an_mp3(before, tmp_path):
    content = encoded(format="MP3")
    file = tmp_path / "junk.mp3"
    file.write_bytes(before + content)
    by_name, _ = soundfile.read(file, dtype="float32")
    assert len(by_name) == RATE
    for reference in (file, before + content, open(file, "rb")):
        np.testing.assert_allclose(load_audio(reference, RATE), by_name, rtol=0, atol=1e-6)


def test_what_only_a_name_would_make_audio_is_refused(tmp_path):
    for name in ("text.mp3", "text.au", "text.snd", "text.vox", "text.gsm", "text.raw"):
        (tmp_path / name).write_bytes(b"No sound is in this, whatever it may be called. " * 100)
        with pytest.raises(AudioError, match="cannot be read as audio"):
            load_audio(tmp_path / name, RATE)
    for seed in range(100):
        with pytest.raises(AudioError):
            load_audio(b"PK\3\4" + np.random.default_rng(seed).bytes(MAX_JUNK), RATE)


def speech(rate: int, channels: int) -> np.ndarray:
    """A pause, a tone and noise, longer than two blocks: a bitrate that varies."""
    tone = np.repeat(0.3 * np.sin(np.arange(BLOCK) * 0.05)[:, None], channels, axis=1)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (BLOCK, channels))
    return np.concatenate([np.zeros((rate, channels)), tone, noise])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 24000, 44100, 48000])
def test_mp3_to_its_last_frame(rate, channels):
    waveform = speech(rate, channels)
    content = encoded(waveform, rate, format="MP3")
    expected = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].mean(axis=1)
    whole = load_audio(content, rate)
    assert len(whole) == len(waveform)
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-6)  # libmpg123 rounds by where its memory lies
    half_a_second = load_audio(content, rate, start=2.5, seconds=0.5)
    np.testing.assert_allclose(half_a_second, whole[round(2.5 * rate) :][: rate // 2], rtol=0, atol=1e-6)

    joined = load_audio(content + id3() + content, rate)
    assert 2 * len(whole) <= len(joined) <= 2 * len(whole) + 8 * 1152
    untagged = content[content.index(content[:2], 100) :]
    assert b"Xing" in content[:48] and b"Xing" not in untagged[:48]
    assert len(whole) <= len(load_audio(untagged, rate)) <= len(whole) + 4 * 1152


def test_mp3_with_a_variable_bitrate_and_no_tag():
    content = encoded(format="MP3")
    untagged = content[288:]
    assert untagged[0] == 0xFF and soundfile.info(io.BytesIO(untagged)).frames < RATE / 2  # what libsndfile makes of it
    waveform, whole = load_audio(untagged, RATE), load_audio(content, RATE)
    assert len(waveform) >= RATE
    delay = 576  # that LAME's tag would have said
    np.testing.assert_allclose(waveform[delay + 2000 :][: RATE // 2], whole[2000:][: RATE // 2], atol=1e-6)
