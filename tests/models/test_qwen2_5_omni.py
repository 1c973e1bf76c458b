"""What Qwen2.5-Omni alone has: clips of five minutes, positions on three axes, placeholders of images and videos."""

import functools
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from verl_leaf.checks.model import check_speech_model
from verl_leaf.cli import main
from verl_leaf.doctor.selftest import actors
from verl_leaf.models import FAMILIES
from verl_leaf.models.placeholder import placeholders
from verl_leaf.models.tiny import TEXT

FAMILY = FAMILIES["qwen2_5_omni"]
AUDIO = "<|audio_bos|><|AUDIO|><|audio_eos|>"
RATE = 16000


@pytest.fixture(scope="module")
def loaded(models):
    """Processor, the class that the actor trains, and transformers' own."""
    from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

    folder = models("qwen2_5_omni")
    ours, theirs = (
        each.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        for each in (FAMILY.load_hf_class(), Qwen2_5OmniThinkerForConditionalGeneration)
    )
    return AutoProcessor.from_pretrained(folder), ours, theirs


def clips(*seconds):
    generator = np.random.default_rng(0)
    return [generator.normal(size=int(RATE * length)).astype(np.float32) / 9 for length in seconds]


def text(count: int) -> str:
    return "<|im_start|>user\n" + AUDIO * count + "What is said?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("seconds", [(), (1.3,), (0.4, 12.34, 2.0), (300.0,)])
def test_numbers_are_transformers_own(loaded, seconds):
    """Whose processor fills every clip up to 300 s, and whose model computes the positions itself."""
    processor, ours, theirs = loaded
    sounds = clips(*seconds)
    ids, inputs = FAMILY.encode(processor, text(len(sounds)), sounds)
    plain = processor(text=[text(len(sounds))], audio=sounds or None, return_tensors="pt")
    assert ids == plain["input_ids"][0].tolist()
    with torch.no_grad():
        found = ours(input_ids=torch.tensor([ids]), **inputs).logits
        expected = theirs(**plain).logits
    masked = placeholders(ours.config)
    kept = [token for token in range(found.shape[-1]) if token not in masked]
    torch.testing.assert_close(found[..., kept], expected[..., kept], rtol=0, atol=2e-5)
    assert (found[..., list(masked)] == -1e4).all() and len(set(masked)) == 3


def test_the_longest_clip_has_7500_tokens(loaded):
    processor, *_ = loaded
    assert FAMILY.audio_tokens(processor, int(RATE * FAMILY.max_seconds)) == 7500
    ids, inputs = FAMILY.encode(processor, text(1), clips(FAMILY.max_seconds))
    assert ids.count(FAMILY.audio_token_id(processor)) == 7500 and len(inputs["input_features"]) == 30000
    assert processor.feature_extractor.n_samples == RATE * FAMILY.max_seconds


def test_audio_has_one_number_on_all_axes(loaded):
    """So that rows of one axis, which are what the agent loop makes and sharing packs, say it all."""
    from vllm.model_executor.models.qwen2_5_omni_thinker import Qwen2_5OmniThinkerForConditionalGeneration as Theirs

    processor, ours, theirs = loaded
    ids, inputs = FAMILY.encode(processor, text(2), clips(1, 3.3))
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
        assert torch.equal(found, places.expand(3, 1, -1))
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


def test_the_language_model_uses_three_axes():
    """Else it would say nothing that they are alike."""
    model, rollouts = actors.build("qwen2_5_omni"), actors.rollouts("qwen2_5_omni", ((1.2, 1),))
    packed = rollouts.pack(share=True)
    other = packed.position_ids.expand(3, 1, -1).clone()
    other[1, :, 5:] += 3

    def logits(positions):
        keys = model.get_base_model().feature_cache.hold(rollouts.audio)
        with torch.no_grad():
            return model(input_ids=packed.input_ids, position_ids=positions, features_key=keys).logits

    one, three = logits(packed.position_ids), logits(packed.position_ids.expand(3, 1, -1))
    assert torch.equal(one, three) and not torch.allclose(one, logits(other), atol=1e-3)


def test_audio_without_its_placeholders_is_refused():
    model = actors.build("qwen2_5_omni")
    audio, tokens = FAMILY.tiny.random_audio(1.0)
    with pytest.raises(ValueError, match=f"{tokens} audio tokens for 1 placeholders"):
        model(input_ids=torch.tensor([[7, actors.AUDIO_TOKEN, 9]]), **audio)


@pytest.mark.parametrize("is_there", [True, False])
def test_the_doctor_says_that_torchvision_is_missing(tmp_path, monkeypatch, capsys, is_there):
    ids = {token: id for id, token in enumerate(FAMILY.tiny.TOKENS, 5)}
    config = FAMILY.tiny.build_config({**TEXT, "vocab_size": 512}, ids)
    config.architectures = ["Qwen2_5OmniForConditionalGeneration"]  # as checkpoints of later transformers have it
    config.save_pretrained(tmp_path)
    find = importlib.util.find_spec
    found = find("json") if is_there else None
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: found if name == "torchvision" else find(name, *more)
    )
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["doctor", str(tmp_path)]) == (0 if is_there else 1)
    assert ("needs torchvision, which this environment does not have" in capsys.readouterr().out) != is_there
    if not is_there:
        with pytest.raises(ValueError, match="packages: qwen2_5_omni needs torchvision.*install 'verl-leaf.gpu.'"):
            check_speech_model(str(tmp_path))
