import io

import numpy as np
import pytest
import soundfile

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


def bad_references(tmp_path):
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "nothing.wav").write_bytes(encoded(np.zeros(0, np.float32)))
    (tmp_path / "nan.wav").write_bytes(encoded(np.array([0, np.nan, 0], np.float32)))
    return {
        str(tmp_path / "missing.wav"): "no such file",
        str(tmp_path): "no such file",
        str(tmp_path / "text.wav"): "cannot be read",
        str(tmp_path / "empty.wav"): "cannot be read",
        str(tmp_path / "nothing.wav"): "no samples",
        str(tmp_path / "nan.wav"): "NaN",
    }


def test_errors_name_the_file_and_the_reason(tmp_path):
    for path, reason in bad_references(tmp_path).items():
        with pytest.raises(AudioError, match=reason) as error:
            load_audio(path, RATE)
        assert path in str(error.value)
    with pytest.raises(AudioError, match="no audio reference"):
        load_audio(7, RATE)
