"""Granite Speech: a clip that rows share is encoded once."""

import torch

from verl_leaf.models import features
from verl_leaf.models.granite_speech import hf


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
