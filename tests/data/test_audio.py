import io
import sys

import av
import numpy as np
import pytest
import soundfile
import soxr

from tests.benchmarks import fuzz_audio
from verl_leaf.data.audio import AudioError, load_audio, unheard
from verl_leaf.models import family_of_processor
from verl_leaf.speech.prompt import render_prompt

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
        {"bytes": encoded(tone), "path": "the name it had.mp3"},
        {"bytes": encoded(tone), "path": None, "array": None, "sampling_rate": None},
        bytearray(encoded(tone)),
        io.BytesIO(encoded(tone)),
        open(tmp_path / "tone.wav", "rb"),
        {"array": tone, "sampling_rate": RATE},
    ):
        np.testing.assert_array_equal(load_audio(reference, RATE), tone)
    np.testing.assert_array_equal(load_audio("tone.wav", RATE, root=str(tmp_path)), tone)


def writable() -> list[tuple[str, str]]:
    """Formats and subtypes that soundfile writes into memory and reads again."""
    pairs = []
    for name in soundfile.available_formats().keys() - {"SD2"}:  # which writes beside what it is given
        for subtype in soundfile.available_subtypes(name):
            try:
                soundfile.read(io.BytesIO(encoded(np.zeros(100), 8000, format=name, subtype=subtype)), 10)
            except (soundfile.SoundFileError, TypeError, ValueError):
                continue
            pairs.append((name, subtype))
    return pairs


def test_every_format_that_soundfile_writes_whatever_is_given(tone, tmp_path):
    pairs = writable()
    assert len(pairs) > 80 and {"WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64", "NIST"} < {
        *dict(pairs)
    }
    file = tmp_path / "audio.raw"  # soundfile alone would take it for samples without a header
    for name, subtype in pairs:
        content = encoded(tone, 8000, format=name, subtype=subtype)
        file.write_bytes(content)
        expected = soundfile.SoundFile(io.BytesIO(content)).read(2 * RATE, dtype="float32")[:RATE]
        for reference in (file, content, open(file, "rb")):
            waveform = load_audio(reference, soundfile.info(io.BytesIO(content)).samplerate)
            np.testing.assert_array_equal(waveform[:RATE], expected, f"{name} {subtype}")


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


def test_m4a_that_ends_with_a_whole_packet_too_early(tone, tmp_path):
    file = tmp_path / "tone.m4a"
    with av.open(str(file), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.tile(tone, 5)[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with av.open(str(file)) as container:
        ends = [packet.pos for packet in container.demux() if packet.pos is not None]
    content = file.read_bytes()
    for end in ends[len(ends) // 2 : len(ends) // 2 + 3]:
        with pytest.raises(AudioError, match=r"cut off"):
            load_audio(content[:end], RATE)


def webm(waveform, rate=48000, **options) -> bytes:
    """Opus in webm, as browsers record it."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm", options=options) as container:
        stream = container.add_stream("libopus", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="flt", layout="mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return buffer.getvalue()


def test_webm(tone):
    long_tone = np.sin(2 * np.pi * 440 * np.arange(3 * 48000) / 48000).astype(np.float32)
    for content in (webm(long_tone), webm(long_tone, live="1")):
        waveform = load_audio(content, RATE)
        assert len(waveform) == pytest.approx(3 * RATE, rel=0.02) and pitch(waveform) == pytest.approx(440, abs=1)
    with pytest.raises(AudioError, match="cut off|damaged"):
        load_audio(webm(long_tone)[:-8000], RATE)


def test_what_needs_a_decoder_says_what_to_install(tone, monkeypatch):
    contents = {"mp4": m4a(tone), "webm": webm(tone)}
    monkeypatch.setitem(sys.modules, "av", None)
    for name, content in contents.items():
        with pytest.raises(
            AudioError, match=rf"the format is {name}, which needs PyAV. Run pip install 'verl-leaf\[m4a\]'"
        ):
            load_audio(content, RATE)


def test_clips_in_which_there_is_nothing_to_hear(tone):
    noise = np.random.default_rng(0).normal(size=RATE)
    for reason, waveform, rate in (
        ("is silent", np.zeros(RATE), RATE),
        ("is silent", np.round(noise).clip(-1, 1) / 2**15, RATE),
        ("is silent", np.stack([tone, -tone], axis=1), RATE),
        ("constant value", np.full(RATE, 0.5), RATE),
        ("constant value", np.full(RATE, -1.0), RATE),
        ("less than one frame", tone[:300], RATE),
        ("clipped throughout", np.sign(noise), RATE),
        ("clipped throughout", (20 * tone).clip(-1, 1), RATE),
        ("clipped throughout", np.sign(tone) * 0.99, 44100),
    ):
        heard = unheard(load_audio(encoded(waveform, rate), RATE), RATE)
        assert heard is not None and reason in heard
    for waveform in (tone, tone / 5000, noise / 10, noise.clip(-1, 1), np.sin(np.arange(RATE) ** 2)):
        assert unheard(np.asarray(waveform, np.float32), RATE) is None


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


@pytest.mark.parametrize(
    ("dtype", "full_scale", "middle"),
    [
        ("int8", 128, 0),
        ("int16", 2**15, 0),
        (">i2", 2**15, 0),
        ("int32", 2**31, 0),
        ("uint8", 128, 128),
        ("int64", 2**15, 0),
    ],
)
def test_integers_are_scaled_by_their_type(tone, dtype, full_scale, middle):
    integers = np.round(tone.astype(np.float64) * (full_scale - 1) + middle).astype(dtype)
    for array in (integers, np.stack([integers, integers])):
        waveform = load_audio({"array": array, "sampling_rate": RATE}, RATE)
        np.testing.assert_allclose(waveform, tone, atol=1.1 / full_scale + 1e-7)


def test_integers_as_soundfile_reads_them_from_a_wav(tone):
    for dtype, subtype in (("int16", "PCM_16"), ("int32", "PCM_32")):
        wav = encoded(tone, subtype=subtype)
        integers, _ = soundfile.read(io.BytesIO(wav), dtype=dtype)
        np.testing.assert_array_equal(
            load_audio({"array": integers, "sampling_rate": RATE}, RATE), load_audio(wav, RATE)
        )


def test_lists_of_integers_are_16_bit_samples_or_refused(tone):
    integers = np.round(tone * 32767).astype(np.int16)
    for array in (integers.tolist(), [integers.tolist()] * 2):  # as parquet gives them
        waveform = load_audio({"array": array, "sampling_rate": RATE}, RATE)
        np.testing.assert_array_equal(waveform, integers / np.float32(2**15))
    assert not load_audio({"array": [0] * 100, "sampling_rate": RATE}, RATE).any()
    for array, reason in (([0, 2**15 + 1], "up to 32769, .*too large"), ([128, 255], "up to 255, .*too small")):
        with pytest.raises(AudioError, match=f"audio array: the integers, {reason}.*int16"):
            load_audio({"array": array, "sampling_rate": RATE}, RATE)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones(9, bool), "bool is not a type of samples"),
        (np.ones(9, np.uint16), "uint16 is not a type of samples"),
        (np.ones(9, complex), "complex128 is not a type"),
        (["a", "b"], "is not a type of samples"),
        ([0.5, None], "object is not a type"),
        ([[0.5, 0.5], [0.5]], "is not an array of numbers"),
        (np.float32(0.5), "one or two axes"),
        ([], "there are no samples"),
        ([0.5, np.nan], "NaN"),
        (np.array([1e300, 0.5]), "infinite"),
        ([0.5, 12000.0], "samples reach 12000, but full scale is 1"),
    ],
)
def test_arrays_that_are_no_samples(array, reason):
    with pytest.raises(AudioError, match=f"audio array: .*{reason}"):
        load_audio({"array": array, "sampling_rate": RATE}, RATE)


@pytest.mark.parametrize("rate", [None, "16000", 0, float("nan"), True])
def test_arrays_without_a_sampling_rate(rate):
    with pytest.raises(AudioError, match="sampling_rate, got|not plausible"):
        load_audio({"array": np.zeros(100), "sampling_rate": rate}, RATE)


def test_a_float_for_a_sampling_rate(tone):
    np.testing.assert_array_equal(load_audio({"array": tone, "sampling_rate": 16000.0}, RATE), tone)


def test_floats_in_files_are_no_integers_either(tone):
    with pytest.raises(AudioError, match="samples reach 16384.*full scale is 1"):
        load_audio(encoded(np.round(tone * 32767)), RATE)
    assert load_audio(encoded(3 * tone), RATE).max() == pytest.approx(1.5)  # a hot recording


def test_no_more_than_an_hour_is_cut_without_a_word():
    hour = np.zeros(3600 * 1000, np.int16)
    assert len(load_audio({"array": hour, "sampling_rate": 1000}, 1000)) == len(hour)
    longer = {"array": np.append(hour, [0]), "sampling_rate": 1000}
    for seconds in ({}, {"seconds": 4000}):
        with pytest.raises(AudioError, match="lasts more than 3600 s"):
            load_audio(longer, 1000, **seconds)
    assert len(load_audio(longer, 1000, seconds=3600)) == len(hour)


def test_the_same_features_from_integers_bytes_and_path(tone, tmp_path, processor):
    wav = encoded(tone, subtype="PCM_16")
    (tmp_path / "tone.wav").write_bytes(wav)
    integers, _ = soundfile.read(io.BytesIO(wav), dtype="int16")
    array = {"array": integers, "sampling_rate": RATE}
    encodings = []
    for reference in (str(tmp_path / "tone.wav"), {"bytes": wav}, array, {**array, "array": integers.tolist()}):
        messages = [{"role": "user", "content": [{"type": "audio", "audio": reference}]}]
        text, clips, _ = render_prompt(processor, messages, {})
        encodings.append(family_of_processor(processor).encode(processor, text, clips))
    for ids, features in encodings[1:]:
        assert ids == encodings[0][0]
        for name, value in features.items():
            np.testing.assert_array_equal(value, encodings[0][1][name])


def test_start_and_seconds(tone):
    ramp = np.linspace(0, 1, 10 * RATE, dtype=np.float32)
    for reference in (encoded(ramp), {"array": ramp, "sampling_rate": RATE}):
        np.testing.assert_array_equal(load_audio(reference, RATE, start=2, seconds=3), ramp[2 * RATE : 5 * RATE])
    with pytest.raises(AudioError, match="there are no samples after 10 s"):
        load_audio(encoded(ramp), RATE, start=10)


@pytest.mark.parametrize("waveform", [np.zeros(RATE), np.zeros(1), np.sign(np.sin(np.arange(RATE)))])
def test_silence_one_sample_and_clipping_are_audio(waveform):
    np.testing.assert_array_equal(load_audio(encoded(waveform), RATE), waveform.astype(np.float32))


def claims(header: bytes, position: int, number: int, size: int = 4) -> bytes:
    return header[:position] + number.to_bytes(size, "little") + header[position + size :]


def bad_references(tmp_path):
    wav = encoded(np.zeros(RATE, np.float32), subtype="PCM_16")
    flac = encoded(np.random.default_rng(0).uniform(-1, 1, RATE), format="FLAC", subtype="PCM_16")
    sphere = encoded(np.zeros(RATE), format="NIST", subtype="PCM_16")
    mp3 = encoded(np.random.default_rng(0).uniform(-1, 1, RATE), format="MP3", subtype="MPEG_LAYER_III")
    (tmp_path / "folder.wav").mkdir()
    files = {
        "text.wav": (b"this is not audio", "cannot be read"),
        "empty.wav": (b"", "cannot be read"),
        "raw.raw": (bytes(100), "cannot be read"),
        "nothing.wav": (encoded(np.zeros(0)), "no samples"),
        "nan.wav": (encoded(np.array([0, np.nan, 0])), "NaN"),
        "infinite.wav": (encoded(np.array([1e300, 0]), subtype="DOUBLE"), "NaN or infinite"),
        "half.wav": (wav[: len(wav) // 2], r"cut off after \d+ of \d+ bytes"),
        "half.flac": (flac[: len(flac) // 2], "cut off"),
        "hours.wav": (claims(wav, 40, 2**30), "cut off"),
        "half.sph": (sphere[: len(sphere) // 2], r"cut off after \d+ of \d+ bytes"),
        "half.mp3": (mp3[: len(mp3) // 2], r"cut off after \d+ of \d+ samples"),
        "three gigabytes.wav": (claims(wav, 40, 3_000_000_000), r"cut off after \d+ of 3000000000 bytes"),
        "slow.wav": (claims(wav, 24, 1), "1 Hz with 1 channel.* is not plausible"),
        "fast.wav": (claims(wav, 24, 2**31 - 1), "not plausible"),
        "wide.wav": (claims(claims(wav, 22, 1000, 2), 32, 2000, 2), "1000 channel.* not plausible"),
        "half.m4a": (m4a(np.zeros(RATE, np.float32))[:500], "cannot be read"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    return {"missing.wav": "no such file", "folder.wav": "no such file"} | {
        name: why for name, (_, why) in files.items()
    }


def wav_of_silence() -> bytes:
    return encoded(np.zeros(RATE, np.float32), subtype="PCM_16")


def test_errors_name_the_file_and_the_reason(tmp_path):
    for name, reason in bad_references(tmp_path).items():
        with pytest.raises(AudioError, match=reason) as error:
            load_audio(name, RATE, root=str(tmp_path))
        assert str(error.value).startswith(str(tmp_path / name))
    for reference in (7, None, {}, {"array": np.zeros(3)}, {"array": np.zeros((2, 2, 2)), "sampling_rate": RATE}):
        with pytest.raises(AudioError):
            load_audio(reference, RATE)
    (tmp_path / "text.wav").write_bytes(wav_of_silence())
    for reference in (
        {"bytes": None, "path": None, "array": None},
        {"bytes": str(tmp_path / "text.wav"), "path": None},
        {"path": b"text.wav"},
        [wav_of_silence()],
        open(tmp_path / "text.wav", encoding="latin-1"),
    ):
        with pytest.raises(AudioError, match="is not an audio reference"):
            load_audio(reference, RATE)


def test_hundreds_of_damaged_files():
    fuzz_audio.main(["--cases", "400"])
