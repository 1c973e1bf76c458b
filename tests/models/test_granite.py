"""Granite Speech: a clip that rows share is encoded once; logits are scaled."""

import torch
from transformers import GraniteForCausalLM

from verl_leaf.doctor.selftest import actors
from verl_leaf.models import FAMILIES
from verl_leaf.models.granite_speech import hf
from verl_leaf.models.tiny import write_random


def test_a_clip_that_rows_share_is_encoded_once(tmp_path):
    write_random(FAMILIES["granite_speech"], tmp_path)
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
    model(input_ids=ids, features_key=model.feature_cache.hold(rows))
    assert len(calls) == 2


def test_logits_are_those_of_the_language_model():
    """Granite divides them by `logits_scaling`, which transformers 5.10 forgets in its class for speech."""
    model = actors.build("granite_speech").eval()
    language = GraniteForCausalLM(model.config.text_config).eval()
    weights = {
        FAMILIES["granite_speech"].checkpoint_name(name.replace(".base_layer", "")): weight
        for name, weight in model.get_base_model().state_dict().items()
    }
    prefix = "language_model."
    language.load_state_dict({name.removeprefix(prefix): weights[prefix + name] for name in language.state_dict()})
    assert language.config.logits_scaling != 1
    tokens = torch.arange(10, 40)[None]
    with torch.no_grad(), model.disable_adapter():
        logits, expected = (each(input_ids=tokens).logits for each in (model, language))
    expected[..., actors.AUDIO_TOKEN] = logits[..., actors.AUDIO_TOKEN]  # never generated
    torch.testing.assert_close(logits, expected)
