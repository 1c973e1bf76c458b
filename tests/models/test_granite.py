"""Granite Speech: features without torchaudio, and a clip that rows share encoded once."""

import json

import torch

from tests.helpers import PROJECT
from verl_leaf.models import features
from verl_leaf.models.granite_speech import hf
from verl_leaf.patches import granite_mel


def test_a_clip_that_rows_share_is_encoded_once(task, tmp_path, monkeypatch):
    from tests.helpers.tiny_models import build

    build("granite_speech", task / "model", tmp_path)
    model = hf.GraniteSpeechForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="sdpa"
    )
    calls = []
    model._parts.encoder.register_forward_hook(lambda *_: calls.append(1))
    one, other = ({"input_features": torch.randn(1, length, 160)} for length in (50, 75))
    monkeypatch.setattr(features, "fetch", lambda keys: [(one, other)[key] for key in keys])
    keys = [0, 0, 1, 0]
    tokens = [model.get_audio_features(each["input_features"]).pooler_output.shape[1] for each in (one, other)]
    calls.clear()
    longest = max(tokens)
    ids = torch.tensor([[5] * (longest - tokens[key]) + [model.config.audio_token_id] * tokens[key] for key in keys])
    model(input_ids=ids, features_key=keys)
    assert len(calls) == 2


def test_mel_spectrogram():
    """Against torchaudio 2.11.0, run once: a chirp's energy by band and frame, its logarithm."""
    time = torch.arange(3200) / 16000
    chirp = torch.sin(2 * torch.pi * (200 * time + 8000 * time**2))
    mel = granite_mel.MelSpectrogram(sample_rate=16000, n_fft=512, win_length=400, hop_length=160, n_mels=80)(chirp)
    assert mel.shape == (80, 21)
    expected = json.loads((PROJECT / "tests/patches/torchaudio_2.11.0_mel.json").read_text())
    # Where there is energy: the vector instructions of the processor show in what is a millionth of it.
    torch.testing.assert_close(
        mel[::8, ::5].clamp(min=1e-4).log10(), torch.tensor(expected).clamp(min=-4), rtol=0, atol=1e-3
    )
