"""Granite Speech: a clip that rows share is encoded once."""

import torch

from verl_leaf.models import features
from verl_leaf.models.granite_speech import hf
from verl_leaf.selftest.folder import write_folder


def test_a_clip_that_rows_share_is_encoded_once(tmp_path):
    write_folder("granite_speech", tmp_path)
    model = hf.GraniteSpeechForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="sdpa"
    )
    calls = []
    model._parts.encoder.register_forward_hook(lambda *_: calls.append(1))
    one, other = ({"input_features": torch.randn(1, length, 160)} for length in (50, 75))
    rows = [one, one, other, one]
    tokens = [model.get_audio_features(each["input_features"]).pooler_output.shape[1] for each in (one, other)]
    calls.clear()
    longest, counts = max(tokens), [tokens[row is other] for row in rows]
    ids = torch.tensor([[5] * (longest - count) + [model.config.audio_token_id] * count for count in counts])
    with features.given(rows) as keys:
        model(input_ids=ids, features_key=keys)
    assert len(calls) == 2
