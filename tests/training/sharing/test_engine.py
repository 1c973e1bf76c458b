"""What the engine refuses, how rows are dealt out, when it is worth it, and that its numbers are verl's.

tests/helpers/comparing.py holds it against verl's in real runs.
"""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import NonTensorStack
from transformers import GraniteSpeechConfig, LlamaConfig, MistralConfig, Qwen2AudioConfig, Qwen2Config
from verl.utils import tensordict_utils as tu
from verl.workers.engine.base import EngineRegistry
from verl.workers.utils.padding import no_padding_2_padding

from tests.helpers import engines
from verl_leaf.models import FAMILIES, features
from verl_leaf.models.family import FEATURES_KEY
from verl_leaf.training.sharing.engine import (
    SharingEngine,
    _can_be_packed,
    _say_whether_embeddings_are_tied,
    _tensors_alone,
    check_attention,
    rows_together,
)
from verl_leaf.training.sharing.pack import Layout, cheaper


def test_verl_finds_the_engine():
    assert EngineRegistry.get_engine_cls("language_model", "fsdp2") is SharingEngine


def test_sliding_windows_are_refused():
    check_attention(LlamaConfig())
    check_attention(Qwen2Config())
    for config in (MistralConfig(sliding_window=8), Qwen2Config(use_sliding_window=True, max_window_layers=4)):
        with pytest.raises(ValueError, match="share_prompts=True needs full attention"):
            check_attention(config)


def test_long_answers_to_a_short_prompt_are_not_worth_it():
    assert cheaper(Layout(1, 340 + 8 * 40), Layout(8, 340 + 40), hidden=512)
    assert not cheaper(Layout(1, 20 + 8 * 400), Layout(8, 20 + 400), hidden=512)


def test_a_mask_that_takes_more_memory_than_sharing_saves_is_not_worth_it():
    packed, alone = Layout(1, 40_500), Layout(2, 40_000)
    assert packed.multiplications(1024, masked=True) < alone.multiplications(1024, masked=False)
    assert not cheaper(packed, alone, hidden=1024) and cheaper(packed, alone, hidden=2048)


@pytest.fixture(scope="module")
def engine(alone, task, tmp_path_factory):
    """A Qwen2-Audio whose outer configuration, as that of the published one, does not say whether embeddings are tied."""
    folder = shutil.copytree(task / "model", tmp_path_factory.mktemp("model"), dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    return engines.build_engine(folder, FAMILIES["qwen2_audio"], share=True, precision=engines.FP32)


@pytest.fixture
def rollouts(engine):
    """(seconds of audio, count, response tokens) -> rows."""
    family, processor, generator = (
        FAMILIES["qwen2_audio"],
        engine.model_config.get_processor(),
        np.random.default_rng(0),
    )

    def rows(seconds: float, count: int, length: int) -> list[engines.Row]:
        clip = generator.normal(size=int(16000 * seconds)).astype(np.float32)
        ids, features = family.encode(processor, processor.audio_token + "Translate.", [clip])
        return [engines.Row(ids, generator.integers(10, 200, length).tolist(), features) for _ in range(count)]

    return rows


FILLER = engines.Row([2] * 7, [2])


def with_later_clips(engine, rows: list[engines.Row]) -> list[engines.Row]:
    """Rollouts with equal responses, and three of them with a later clip, which two have in common."""
    processor = engine.model_config.get_processor()
    encode = functools.partial(FAMILIES["qwen2_audio"].encode, processor)
    clips = np.random.default_rng(1).normal(size=(2, 16000)).astype(np.float32)
    heard = [encode(f"Again.<|audio_bos|>{processor.audio_token}<|audio_eos|>", [clip]) for clip in clips]
    for row, number in zip(rows[1:], (0, 1, 0), strict=True):
        ids, features = heard[number]
        row.response = [*rows[0].response, *ids, *row.response]
        row.later = [features]
    return rows


@pytest.mark.parametrize("temperature", [1.0, 0.8])
@pytest.mark.parametrize(
    "case", ["shared", "later clips", "one row", "beside fillers", "fillers alone", "not worth it"]
)
def test_numbers_are_verls(engine, rollouts, monkeypatch, case, temperature):
    rows = {
        "shared": lambda: rollouts(1, 3, 5) + rollouts(2, 1, 9),
        "later clips": lambda: with_later_clips(engine, rollouts(1, 4, 5)) + rollouts(2, 2, 9),
        "one row": lambda: rollouts(1, 1, 5),
        "beside fillers": lambda: [*rollouts(1, 2, 5), FILLER],
        "fillers alone": lambda: [FILLER] * 3,
        "not worth it": lambda: rollouts(0.3, 3, 300),
    }[case]()
    store, results = engines.Features(), []
    monkeypatch.setattr(features.FeatureCache, "fetch", store.fetch)
    for shares in (False, True):
        engine.shares = shares
        batch = engines.build_batch(rows, store)
        tu.assign_non_tensor(batch, temperature=temperature, calculate_sum_pi_squared=True)
        packed = engine._pack(_tensors_alone(batch))[0] if shares else None
        output = engines.old_log_prob(engine, batch)
        results.append({name: no_padding_2_padding(values, batch) for name, values in output.items()})
    stock, ours = results
    assert packed is not None and (packed.last is None) == (case in ("one row", "not worth it"))
    assert stock.keys() == ours.keys() == {"log_probs", "entropy", "sum_pi_squared"}
    for name in stock:
        torch.testing.assert_close(ours[name], stock[name], rtol=0, atol=1e-5)


def test_smaller_micro_batches_have_the_same_gradients(engine, rollouts, monkeypatch):
    """So that the number of tokens may bound them, across prompts too, by rows or by tokens."""
    store, rows, found = engines.Features(), [*rollouts(1, 4, 5), *rollouts(2, 4, 9)], []
    monkeypatch.setattr(features.FeatureCache, "fetch", store.fetch)
    engine.shares = True
    for micro_batch, tokens in (8, None), (2, None), (1, None), (8, 200):
        batch = engines.build_batch(rows, store, micro_batch)
        if tokens is not None:
            tu.assign_non_tensor(batch, use_dynamic_bsz=True, max_token_len_per_gpu=tokens)
        old = engines.old_log_prob(engine, batch)["log_probs"]
        engines.add_log_probs(batch, old, old)
        tu.assign_non_tensor(batch, calculate_entropy=False)
        with engine.train_mode():
            engine.optimizer_zero_grad()
            engine.forward_backward_batch(batch, engines.LOSS)
            trained = [weight for weight in engine.module.parameters() if weight.requires_grad]
            found.append(torch.cat([weight.grad.full_tensor().flatten() for weight in trained]))
            engine.optimizer_zero_grad()
    assert found[0].norm() > 0
    for gradient in found[1:]:
        assert (gradient - found[0]).norm() < 1e-5 * found[0].norm()


@pytest.mark.parametrize("case", ["several clips", "no clip", "mixed"])
def test_numbers_are_verls_in_omni(alone, models, monkeypatch, case):
    family, generator = FAMILIES["qwen2_5_omni"], np.random.default_rng(0)
    engine = engines.build_engine(models("qwen2_5_omni"), family, share=True, precision=engines.FP32)
    processor = engine.model_config.get_processor()

    def rollouts(seconds: tuple[float, ...], count: int, length: int) -> list[engines.Row]:
        clips = [generator.normal(size=int(16000 * each)).astype(np.float32) for each in seconds]
        text = "".join(f"<|audio_bos|>{processor.audio_token}<|audio_eos|>" for _ in clips) + "Translate. " * 6
        ids, audio = family.encode(processor, text, clips)
        return [engines.Row(ids, generator.integers(10, 200, length).tolist(), audio or None) for _ in range(count)]

    rows = {
        "several clips": lambda: rollouts((1,), 3, 5) + rollouts((2, 0.7), 2, 9),
        "no clip": lambda: rollouts((), 3, 6),
        "mixed": lambda: [*rollouts((1.5,), 2, 5), *rollouts((), 2, 7), FILLER],
    }[case]()
    store, results = engines.Features(), []
    monkeypatch.setattr(features.FeatureCache, "fetch", store.fetch)
    for shares in (False, True):
        engine.shares, batch = shares, engines.build_batch(rows, store)
        assert not shares or engine._pack(_tensors_alone(batch))[0].last is not None
        results.append(no_padding_2_padding(engines.old_log_prob(engine, batch)["log_probs"], batch))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def test_widths_are_rounded_and_cudnn_does_not_plan_attention_for_each(engine, rollouts):
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    engine.shares = True
    batch = engines.build_batch(rollouts(1, 3, 5), engines.Features())
    inputs, _ = engine.prepare_model_inputs(_tensors_alone(batch))
    assert inputs["input_ids"].shape == (1, 48)  # a prompt of 29 tokens and three responses of 5


def micro_batches(engine, monkeypatch) -> list:
    """Return a list that fills with the micro-batches that the engine computes."""
    seen, prepare = [], engine.prepare_model_inputs
    monkeypatch.setattr(
        engine, "prepare_model_inputs", lambda micro_batch: [seen.append(micro_batch), prepare(micro_batch)][1]
    )
    return seen


def test_the_datasets_columns_stay_behind(engine, rollouts, monkeypatch):
    """verl would move an object of each row and column to the device, for every micro-batch."""
    engine.shares, store, seen = True, engines.Features(), micro_batches(engine, monkeypatch)
    monkeypatch.setattr(features.FeatureCache, "fetch", store.fetch)
    batch = engines.build_batch([*rollouts(1, 2, 5), *rollouts(2, 1, 9), FILLER], store, micro_batch_size=2)
    assert "raw_prompt" in batch and "multi_modal_inputs" in batch
    engines.old_log_prob(engine, batch)
    assert len(seen) == 2 and not any(isinstance(column, NonTensorStack) for each in seen for column in each.values())
    assert [each[FEATURES_KEY][:, 0, 0].tolist() for each in seen] == [[1, 1], [2, 0]]


def test_micro_batches_by_tokens_keep_a_prompts_rows_together(engine, rollouts, monkeypatch):
    """verl deals rows by their length, which would put rows of every prompt into every micro-batch."""
    engine.shares, store, seen = True, engines.Features(), micro_batches(engine, monkeypatch)
    monkeypatch.setattr(features.FeatureCache, "fetch", store.fetch)
    prompts = [rollouts(seconds, 4, 5 + number) for number, seconds in enumerate((1, 1.1, 1.2, 1.3))]
    batch = engines.build_batch([row for prompt in prompts for row in prompt], store)
    tu.assign_non_tensor(batch, use_dynamic_bsz=True, max_token_len_per_gpu=400)
    engines.old_log_prob(engine, batch)
    keys = [each[FEATURES_KEY].flatten(1).tolist() for each in seen]
    assert 1 < len(keys) < 4 and sum(map(len, keys)) == 16
    assert all(rows.count(row) == 4 for rows in keys for row in rows)


@given(st.data())
def test_rows_that_stay_together_are_of_one_prompt_and_fit(data):
    runs = data.draw(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=5))
    prompts = [prompt for prompt, count in runs for _ in range(count)]
    lengths = data.draw(st.lists(st.integers(1, 50), min_size=len(prompts), max_size=len(prompts)))
    limit = data.draw(st.integers(50, 300))
    size = rows_together(lengths, prompts, limit)

    def works(size):
        parts = [slice(first, first + size) for first in range(0, len(prompts), size)]
        one_prompt = len(prompts) % size == 0 and all(len(set(prompts[part])) == 1 for part in parts)
        return one_prompt and all(sum(lengths[part]) <= limit for part in parts)

    assert works(size)
    if len(set(prompts)) == 1:
        assert size == max(each for each in range(1, len(prompts) + 1) if works(each))


def test_what_cannot_be_packed_is_verls(engine, rollouts):
    def batch(**changes):
        each = engines.build_batch([*rollouts(1, 2, 5), FILLER], engines.Features())
        tu.assign_non_tensor(each, **changes)
        return each

    assert _can_be_packed(batch()) and _can_be_packed(batch(enable_routing_replay=False))
    assert not _can_be_packed(batch(enable_routing_replay=True))
    images = batch()
    tu.assign_non_tensor_stack(images, "multi_modal_inputs", [{}, {}, {"pixel_values": torch.ones(1)}])
    temperatures = batch()
    temperatures["temperature"] = torch.tensor([1.0, 1.0, 0.8])
    assert not _can_be_packed(images) and not _can_be_packed(temperatures)
    temperatures["temperature"] = torch.ones(3)
    assert _can_be_packed(temperatures)


def test_embeddings_are_tied_where_either_configuration_says_so():
    config = GraniteSpeechConfig(
        text_config={"model_type": "granite", "tie_word_embeddings": True}, tie_word_embeddings=False
    )
    _say_whether_embeddings_are_tied(config)
    assert config.tie_word_embeddings is True
    config = Qwen2AudioConfig()
    _say_whether_embeddings_are_tied(config)
    assert config.tie_word_embeddings is False
