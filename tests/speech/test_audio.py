import io
import sys

import av
import numpy as np
import pytest
import soundfile
import soxr

from tests.benchmarks import fuzz_audio
from verl_leaf.speech.audio import AudioError, load_audio

RATE = 16000


@pytest.fixture
def tone():
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def encoded(waveform, rate=RATE, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, **{"format": "WAV", "subtype": "FLOAT", **options})
    return buffer.getvalue()


def test_every_kind_of_reference_gives_the_same_waveform(tone, tmp_path):
    (tmp_path / "tone.wav").write_bytes(encoded(tone))
    for reference in (
        str(tmp_path / "tone.wav"),
        tmp_path / "tone.wav",
        encoded(tone),
        {"bytes": encoded(tone), "path": None},
        {"bytes": None, "path": str(tmp_path / "tone.wav")},
        {"array": tone, "sampling_rate": RATE},
    ):
        np.testing.assert_array_equal(load_audio(reference, RATE), tone)
    np.testing.assert_array_equal(load_audio("tone.wav", RATE, root=str(tmp_path)), tone)


def test_resamples_and_averages_channels(tone):
    stereo = np.stack([tone, np.zeros_like(tone)], axis=1)
    half = load_audio(encoded(stereo), RATE // 2)
    assert half.dtype == np.float32 and half.shape == (RATE // 2,)
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / (RATE // 2))
    np.testing.assert_allclose(half[500:-500], expected[500:-500], atol=1e-3)


def m4a(waveform, rate=RATE) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return buffer.getvalue()


def pitch(waveform, rate=RATE) -> float:
    """The loudest frequency, in Hz."""
    return np.abs(np.fft.rfft(waveform)).argmax() * rate / len(waveform)


@pytest.mark.parametrize(
    "options",
    [
        {"format": "WAV", "subtype": "PCM_U8"},
        {"format": "WAV", "subtype": "PCM_16"},
        {"format": "WAV", "subtype": "PCM_24"},
        {"format": "WAV", "subtype": "DOUBLE"},
        {"format": "WAV", "subtype": "ULAW"},
        {"format": "FLAC", "subtype": "PCM_24"},
        {"format": "OGG", "subtype": "VORBIS"},
        {"format": "OGG", "subtype": "OPUS"},
        {"format": "MP3", "subtype": "MPEG_LAYER_III"},
        {"format": "AIFF", "subtype": "PCM_16"},
    ],
    ids=lambda options: f"{options['format']}-{options['subtype']}",
)
def test_formats_whatever_the_name(tone, tmp_path, options):
    (tmp_path / "tone.wav").write_bytes(encoded(tone, **options))
    waveform = load_audio("tone.wav", RATE, root=str(tmp_path))
    assert len(waveform) == pytest.approx(RATE, rel=0.1)
    assert pitch(waveform) == pytest.approx(440, abs=3)
    assert waveform.std() == pytest.approx(0.5 / 2**0.5, abs=0.03)


def test_m4a(tone, tmp_path):
    (tmp_path / "tone.m4a").write_bytes(m4a(tone))
    for reference in (tmp_path / "tone.m4a", m4a(tone), {"bytes": m4a(tone), "path": None}):
        waveform = load_audio(reference, RATE)
        assert len(waveform) == pytest.approx(RATE, rel=0.1)
        assert pitch(waveform) == pytest.approx(440, abs=3)
    assert pitch(load_audio(m4a(tone), RATE, start=0.5, seconds=0.25)) == pytest.approx(440, abs=8)


def test_m4a_without_its_decoder_says_what_to_install(tone, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"pip install 'verl-leaf\[m4a\]'"):
        load_audio(m4a(tone), RATE)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 192000])
def test_sampling_rates_keep_the_pitch(rate):
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    waveform = load_audio(encoded(tone, rate), RATE)
    assert len(waveform) == pytest.approx(RATE, abs=1)
    assert pitch(waveform) == pytest.approx(440, abs=1)
    np.testing.assert_allclose(waveform, soxr.resample(tone, rate, RATE)[: len(waveform)], atol=1e-4)


@pytest.mark.parametrize("shape", [(RATE,), (RATE, 2), (2, RATE), (RATE, 6)])
def test_arrays_with_channels(shape):
    waveform = load_audio({"array": np.full(shape, 0.25), "sampling_rate": RATE}, RATE)
    np.testing.assert_array_equal(waveform, np.full(RATE, 0.25, np.float32))


def test_start_and_seconds(tone):
    ramp = np.linspace(0, 1, 10 * RATE, dtype=np.float32)
    for reference in (encoded(ramp), {"array": ramp, "sampling_rate": RATE}):
        np.testing.assert_array_equal(load_audio(reference, RATE, start=2, seconds=3), ramp[2 * RATE : 5 * RATE])
    with pytest.raises(AudioError, match="holds no samples after 10 s"):
        load_audio(encoded(ramp), RATE, start=10)


@pytest.mark.parametrize("waveform", [np.zeros(RATE), np.zeros(1), np.sign(np.sin(np.arange(RATE)))])
def test_silence_one_sample_and_clipping_are_audio(waveform):
    np.testing.assert_array_equal(load_audio(encoded(waveform), RATE), waveform.astype(np.float32))


def claims(header: bytes, position: int, number: int, size: int = 4) -> bytes:
    return header[:position] + number.to_bytes(size, "little") + header[position + size :]


def bad_references(tmp_path):
    wav = encoded(np.zeros(RATE, np.float32), subtype="PCM_16")
    flac = encoded(np.random.default_rng(0).uniform(-1, 1, RATE), format="FLAC", subtype="PCM_16")
    (tmp_path / "folder.wav").mkdir()
    files = {
        "text.wav": (b"this is no audio", "cannot be read"),
        "empty.wav": (b"", "cannot be read"),
        "raw.raw": (bytes(100), "cannot be read"),
        "nothing.wav": (encoded(np.zeros(0)), "no samples"),
        "nan.wav": (encoded(np.array([0, np.nan, 0])), "NaN"),
        "infinite.wav": (encoded(np.array([1e300, 0]), subtype="DOUBLE"), "NaN or infinite"),
        "half.wav": (wav[: len(wav) // 2], r"cut off; it holds \d+ of \d+ bytes"),
        "half.flac": (flac[: len(flac) // 2], "cut off"),
        "hours.wav": (claims(wav, 40, 2**30), "cut off"),
        "slow.wav": (claims(wav, 24, 1), "1 Hz and 1 channel.* not believable"),
        "fast.wav": (claims(wav, 24, 2**31 - 1), "not believable"),
        "wide.wav": (claims(claims(wav, 22, 1000, 2), 32, 2000, 2), "1000 channel.* not believable"),
        "half.m4a": (m4a(np.zeros(RATE, np.float32))[:500], "cannot be read"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    return {"missing.wav": "no such file", "folder.wav": "no such file"} | {
        name: why for name, (_, why) in files.items()
    }


def test_errors_name_the_file_and_the_reason(tmp_path):
    for name, reason in bad_references(tmp_path).items():
        with pytest.raises(AudioError, match=reason) as error:
            load_audio(name, RATE, root=str(tmp_path))
        assert str(error.value).startswith(str(tmp_path / name))
    for reference in (7, None, {}, {"array": np.zeros(3)}, {"array": np.zeros((2, 2, 2)), "sampling_rate": RATE}):
        with pytest.raises(AudioError):
            load_audio(reference, RATE)


def test_a_piped_wav_claims_the_most_there_can_be(tone):
    wav = encoded(tone, subtype="PCM_16")
    assert len(load_audio(claims(claims(wav, 40, 2**32 - 1), 4, 2**32 - 1), RATE)) == RATE


def test_hundreds_of_damaged_files():
    assert fuzz_audio.run(cases=400, seed=0).keys() <= {"audio", "AudioError"}
