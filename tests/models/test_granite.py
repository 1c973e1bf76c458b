"""Granite Speech: features without torchaudio, clips encoded as if each were alone, the checkpoint's own adapter."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from verl_leaf.checks import check_speech_model
from verl_leaf.models import family_of_processor
from verl_leaf.models.granite_speech import hf
from verl_leaf.patches import granite_mel

TEXT = "<|im_start|>user\n<|audio|>Translate into German.<|im_end|>\n"


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("granite")
    subprocess.run([sys.executable, Path(__file__).parent / "tiny_granite.py", task / "model", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def granite(folder):
    from transformers import AutoProcessor

    granite_mel.install()
    model = hf.GraniteSpeechForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return AutoProcessor.from_pretrained(folder), model


def clips(*seconds):
    generator = np.random.default_rng(0)
    return [generator.normal(size=int(16000 * length)).astype(np.float32) / 9 for length in seconds]


def test_a_prompt_has_the_length_that_is_foretold(granite):
    processor, _ = granite
    family = family_of_processor(processor)
    for clip in clips(0.1, 0.55, 1, 3.21, 7):
        ids, features = family.encode(processor, TEXT, [clip])
        tokens = ids.count(family.audio_token_id(processor))
        assert tokens == family.audio_tokens(processor, len(clip)) >= family.min_audio_tokens
        assert family.prompt_length(processor, TEXT, [len(clip)]) == len(ids)
        assert list(features) == ["input_features"]
    with pytest.raises(ValueError, match="2 audio clips, granite_speech takes 1"):
        family.prompt_length(processor, TEXT + TEXT, [16000, 16000])


def test_a_micro_batch_gives_what_each_row_gives_alone(granite, monkeypatch):
    """Also in training mode: BatchNorm and dropout of the encoder stay off."""
    processor, model = granite
    family = family_of_processor(processor)
    encoded = [family.encode(processor, TEXT, [clip]) for clip in clips(1, 3, 0.6)]
    with torch.no_grad():
        alone = [model.eval()(input_ids=torch.tensor([ids]), **features).logits[0] for ids, features in encoded]
    rows = [0, 1, 2, 0]
    longest = max(len(ids) for ids, _ in encoded)
    ids = torch.tensor([[0] * (longest - len(encoded[row][0])) + encoded[row][0] for row in rows])
    mask = torch.tensor([[0] * (longest - len(encoded[row][0])) + [1] * len(encoded[row][0]) for row in rows])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    calls = []
    model.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(hf, "fetch", lambda keys: [encoded[row][1] for row in keys])
    model.train()
    batch = model(input_ids=ids, attention_mask=mask, position_ids=positions, features_key=rows).logits
    assert len(calls) == 3  # a clip that two rows share is encoded once
    for row, logits in zip(rows, batch, strict=True):
        torch.testing.assert_close(logits[-len(alone[row]) :], alone[row], rtol=0, atol=2e-5)
    assert (batch[..., model.config.audio_token_id] == -1e4).all()


def test_mel_spectrogram():
    """Against torchaudio 2.11.0, run once: a chirp's energy by band and frame, in decibels."""
    time = torch.arange(3200) / 16000
    chirp = torch.sin(2 * torch.pi * (200 * time + 8000 * time**2))
    mel = granite_mel.MelSpectrogram(sample_rate=16000, n_fft=512, win_length=400, hop_length=160, n_mels=80)(chirp)
    assert mel.shape == (80, 21)
    expected = json.loads((Path(__file__).parents[1] / "data/torchaudio_2.11.0_mel.json").read_text())
    torch.testing.assert_close(mel[::8, ::5].log10(), torch.tensor(expected), rtol=0, atol=1e-3)


def test_a_checkpoint_with_an_adapter_of_its_own_is_refused(folder, tmp_path):
    check_speech_model(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "has_lora_adapter": True}))
    with pytest.raises(ValueError, match="has a LoRA adapter of its own"):
        check_speech_model(str(tmp_path))
