"""Granite Speech's features without torchaudio."""

import json

import pytest
import torch
from transformers.models.granite_speech import feature_extraction_granite_speech
from transformers.utils import is_torchaudio_available

from tests.helpers import PROJECT
from tests.helpers.changed import without
from verl_leaf.patches import granite_mel

RATE = 16000


def chirp() -> torch.Tensor:
    time = torch.arange(3200) / RATE
    return torch.sin(2 * torch.pi * (200 * time + 8000 * time**2))


def test_mel_spectrogram():
    """Against torchaudio 2.11.0, run once: a chirp's energy by band and frame, as the decimal logarithm.

    Compared as the extractor hands it on, with a floor eight decades below the loudest: what lies deeper is the rounding of
    float32, which differs with the processor's instructions (by 2e-3 between AVX2 and AVX-512), and the model never sees it.
    """
    mel = granite_mel.MelSpectrogram(sample_rate=RATE, n_fft=512, win_length=400, hop_length=160, n_mels=80)(chirp())
    assert mel.shape == (80, 21)
    ours = mel.log10()
    floor = ours.max() - 8
    expected = torch.tensor(json.loads((PROJECT / "tests/patches/torchaudio_2.11.0_mel.json").read_text()))
    assert (expected > floor).sum() > 25
    torch.testing.assert_close(ours[::8, ::5].maximum(floor), expected.maximum(floor), rtol=0, atol=2e-4)


@pytest.mark.skipif(not is_torchaudio_available(), reason="torchaudio is not installed")
def test_mel_spectrogram_is_the_installed_torchaudios():
    import torchaudio

    settings = {"sample_rate": RATE, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80}
    ours, theirs = (
        made(**settings)(chirp()) for made in (granite_mel.MelSpectrogram, torchaudio.transforms.MelSpectrogram)
    )
    floor = theirs.max() * 1e-8
    torch.testing.assert_close(ours.maximum(floor).log10(), theirs.maximum(floor).log10(), rtol=0, atol=2e-4)


@pytest.mark.skipif(is_torchaudio_available(), reason="the patch is not needed: torchaudio is installed")
def test_the_extractor_works_with_it_and_not_without():
    extractor = feature_extraction_granite_speech.GraniteSpeechFeatureExtractor()
    assert extractor(chirp())["input_features"].shape == (1, 10, 160)
    stock = without(feature_extraction_granite_speech, "torchaudio").requires_backends.__wrapped__
    with pytest.raises(ImportError, match="torchaudio"):
        stock(extractor, ["torchaudio"])


def test_torchaudio_is_used_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(granite_mel, "is_torchaudio_available", lambda: True)
    (hook,) = granite_mel.HOOKS.values()
    assert hook(without(feature_extraction_granite_speech, "torchaudio")) == "not needed: torchaudio is installed"
