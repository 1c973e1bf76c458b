"""What Qwen's Omni models alone have: long clips, positions on three axes, placeholders of images and videos, experts."""

import functools
import importlib
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from verl_leaf.checks.model import check_speech_model
from verl_leaf.cli import main
from verl_leaf.doctor.selftest import actors
from verl_leaf.models import FAMILIES
from verl_leaf.models.placeholder import placeholders
from verl_leaf.models.thinker import ThinkerActor
from verl_leaf.models.tiny import TEXT
from verl_leaf.plugin.vllm import register_models

RATE = 16000
# Clips of a prompt with which transformers' own numbers do not depend on the clips beside each other.
AS_TRANSFORMERS = {
    "qwen2_5_omni": [(), (1.3,), (0.4, 12.34, 2.0), (300.0,)],
    "qwen3_omni_moe": [(), (1.3,), (61.0,)],
}
VLLM = {
    "qwen2_5_omni": "qwen2_5_omni_thinker.Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe": "qwen3_omni_moe_thinker.Qwen3OmniMoeThinkerForConditionalGeneration",
}


@pytest.fixture(scope="module", params=AS_TRANSFORMERS)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def loaded(family, models):
    """Processor, the class that the actor trains, and transformers' own."""
    folder = models(family.model_type)
    actor = family.load_hf_class()
    ours, theirs = (
        each.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        for each in (actor, next(base for base in actor.__bases__ if base is not ThinkerActor))
    )
    return transformers.AutoProcessor.from_pretrained(folder), ours, theirs


def clips(*seconds):
    generator = np.random.default_rng(0)
    return [generator.normal(size=int(RATE * length)).astype(np.float32) / 9 for length in seconds]


def text(processor, count: int) -> str:
    audio = processor.audio_bos_token + processor.audio_token + processor.audio_eos_token
    return "<|im_start|>user\n" + audio * count + "What is said?<|im_end|>\n<|im_start|>assistant\n"


def test_numbers_are_transformers_own(family, loaded):
    """Whose model computes the positions itself, and whose processor fills every clip of Qwen2.5-Omni up to 300 s."""
    processor, ours, theirs = loaded
    for seconds in AS_TRANSFORMERS[family.model_type]:
        sounds = clips(*seconds)
        prompt = text(processor, len(sounds))
        ids, inputs = family.encode(processor, prompt, sounds)
        plain = processor(text=[prompt], audio=sounds or None, return_tensors="pt")
        assert ids == plain["input_ids"][0].tolist()
        with torch.no_grad():
            found = ours(input_ids=torch.tensor([ids]), **inputs).logits
            expected = theirs(**plain).logits
        masked = placeholders(ours.config)
        kept = [token for token in range(found.shape[-1]) if token not in masked]
        torch.testing.assert_close(found[..., kept], expected[..., kept], rtol=0, atol=2e-5)
        assert (found[..., list(masked)] == -1e4).all() and len(set(masked)) == 3


def test_a_clip_is_the_same_beside_others(family, loaded):
    """A clip of 0.4 s is shorter than a window of either encoder, and ends in silence or in its mirror image."""
    processor, ours, _ = loaded
    sounds = clips(0.4, 12.345, 2.0)

    def heard(*some):
        _, inputs = family.encode(processor, text(processor, len(some)), list(some))
        with torch.no_grad():
            return ours._encode(inputs["input_features"].T, inputs["audio_feature_lengths"])

    torch.testing.assert_close(heard(*sounds), torch.cat([heard(clip) for clip in sounds]), rtol=0, atol=1e-5)


def test_vllm_computes_the_same_features(family, loaded, models):
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    register_models()
    processor, *_ = loaded
    config = ModelConfig(str(models(family.model_type)), dtype="float32", max_model_len=2048)
    vllms = MULTIMODAL_REGISTRY.create_processor(config)
    for seconds in (1.3,), (0.4, 12.345, 2.0):
        sounds = clips(*seconds)
        prompt = text(processor, len(sounds))
        ids, inputs = family.encode(processor, prompt, sounds)
        items = vllms.info.parse_mm_data({"audio": [(clip, RATE) for clip in sounds]})
        made = vllms(prompt, mm_items=items)
        assert made["prompt_token_ids"] == ids
        mel = torch.cat([item["input_audio_features"].data for item in made["mm_kwargs"]["audio"]], dim=-1)
        torch.testing.assert_close(mel.T, inputs["input_features"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, tokens, frames", [("qwen2_5_omni", 7500, 30000), ("qwen3_omni_moe", 7800, 60000)])
def test_the_longest_clip_fits_vllms_encoder_cache(models, name, tokens, frames):
    family, processor = FAMILIES[name], transformers.AutoProcessor.from_pretrained(models(name))
    assert family.audio_tokens(processor, int(RATE * family.max_seconds)) == tokens < 8192
    ids, inputs = family.encode(processor, text(processor, 1), clips(family.max_seconds))
    assert ids.count(family.audio_token_id(processor)) == tokens and len(inputs["input_features"]) == frames


def test_audio_has_one_number_on_all_axes(family, loaded):
    """So that rows of one axis, which are what the agent loop makes and sharing packs, say it all."""
    module, name = VLLM[family.model_type].split(".")
    Theirs = getattr(importlib.import_module(f"vllm.model_executor.models.{module}"), name)
    processor, ours, theirs = loaded
    ids, inputs = family.encode(processor, text(processor, 2), clips(1, 3.3))
    ids = torch.tensor(ids)
    places = torch.arange(len(ids))
    # (Of an image alone does transformers make different ones, and so goes through them token by token.)
    for grid in (None, torch.zeros(0, 3, dtype=torch.long)):
        found, _ = theirs.get_rope_index(
            ids[None],
            image_grid_thw=grid,
            attention_mask=torch.ones_like(ids)[None],
            audio_seqlens=inputs["audio_feature_lengths"],
        )
        assert torch.equal(found.long(), places.expand(3, 1, -1))
    starts = [place for place in places[1:].tolist() if ids[place] == ours.config.audio_token_id != ids[place - 1]]
    mm_features = [
        SimpleNamespace(
            modality="audio",
            mm_position=SimpleNamespace(offset=start),
            data={"audio_feature_lengths": SimpleNamespace(data=length)},
        )
        for start, length in zip(starts, inputs["audio_feature_lengths"], strict=True)
    ]
    vllm = SimpleNamespace(config=ours.config)
    for name in ("iter_mm_features", "_get_audio_for_video_mapping", "_compute_audio_token_count"):
        setattr(vllm, name, functools.partial(getattr(Theirs, name), vllm))
    found, delta = Theirs.get_mrope_input_positions(vllm, ids.tolist(), mm_features)
    assert torch.equal(found, places.expand(3, -1)) and delta == 0


def test_the_language_model_uses_three_axes(family):
    """Else it would say nothing that they are alike."""
    model, rollouts = actors.build(family.model_type), actors.rollouts(family.model_type, ((1.2, 1),))
    packed = rollouts.pack(share=True)
    other = packed.position_ids.expand(3, 1, -1).clone()
    other[1, :, 5:] += 3

    def logits(positions):
        keys = model.get_base_model().feature_cache.hold(rollouts.audio)
        with torch.no_grad():
            return model(input_ids=packed.input_ids, position_ids=positions, features_key=keys).logits

    one, three = logits(packed.position_ids), logits(packed.position_ids.expand(3, 1, -1))
    assert torch.equal(one, three) and not torch.allclose(one, logits(other), atol=1e-3)


def test_audio_without_its_placeholders_is_refused(family):
    model = actors.build(family.model_type)
    audio, tokens = family.tiny.random_audio(1.0)
    with pytest.raises(ValueError, match=f"{tokens} audio tokens for 1 placeholders"):
        model(input_ids=torch.tensor([[7, actors.AUDIO_TOKEN, 9]]), **audio)


@pytest.mark.parametrize("lacks", [None, "torchvision", "vllm"])
def test_the_doctor_says_what_is_missing(family, tmp_path, monkeypatch, capsys, lacks):
    ids = {token: id for id, token in enumerate(family.tiny.TOKENS, 5)}
    config = family.tiny.build_config({**TEXT, "vocab_size": 512}, ids)
    config.architectures = [family.architectures[-1]]
    config.save_pretrained(tmp_path)
    find = importlib.util.find_spec
    found = find("json") if lacks != "torchvision" else None
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: found if name == "torchvision" else find(name, *more)
    )
    version = "0.24.0" if lacks == "vllm" else "0.31.0"
    monkeypatch.setattr("verl_leaf.common.vllm_distribution.installed", lambda: ("vllm", version))
    monkeypatch.setenv("COLUMNS", "300")
    missing = next((need for need in family.needs if lacks and need.startswith(lacks)), None)
    assert main(["doctor", str(tmp_path)]) == (1 if missing else 0)
    assert (f"needs {missing}, which this environment does not have" in capsys.readouterr().out) == bool(missing)
    if missing:
        with pytest.raises(
            ValueError, match=f"packages: {family.model_type} needs {missing}.*'verl-leaf.{family.extra}.'"
        ):
            check_speech_model(str(tmp_path))
