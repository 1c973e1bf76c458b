"""The corpus and the model of the embedded task."""

import random
import subprocess
import sys

import pandas
import torch
from transformers import Qwen2AudioForConditionalGeneration

from examples.spoken_german import corpus, phrases, tiny_model, warm_start


def test_validation_is_new_in_voice_and_sentence(task):
    train, val = (pandas.read_parquet(task / f"data/{split}.parquet") for split in ("train", "val"))
    for key in ("voice", "sentence"):
        heard = {row[key] for row in train.extra_info}
        assert not heard & {row[key] for row in val.extra_info}
    assert all((task / "data" / audio).exists() for rows in (train, val) for row in rows.audios for audio in row)


def test_prepare_reuses_what_is_there(task):
    command = [sys.executable, "-m", "examples.spoken_german.prepare", "--out", task, "--clips", "32", "--steps", "0"]
    before = (task / "model/model.safetensors").stat().st_mtime_ns
    assert "are already complete" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (task / "model/model.safetensors").stat().st_mtime_ns == before


def test_model_loads_by_the_hubs_names_and_listens(task, processor):
    model, info = Qwen2AudioForConditionalGeneration.from_pretrained(task / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    text = ["<|audio_bos|><|AUDIO|><|audio_eos|>Translate into German."]
    logits = []
    for seed in (0, 1):
        wave = torch.randn(16000, generator=torch.Generator().manual_seed(seed)).numpy()
        inputs = processor(text=text, audio=[wave], sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits[0, -1].log_softmax(-1))
    assert (logits[0] - logits[1]).abs().max() > 1e-2


def test_undecided_translations_are_heard_but_seldom_right():
    rng = random.Random(0)
    sentences = phrases.draw(200, rng)
    exercises = [phrases.exercises(sentence)[phrases.NAME] for sentence in sentences]
    drawn = [exercise.undecided(rng) for exercise in exercises]
    assert all(all(exercise.heard(answer)) for exercise, answer in zip(exercises, drawn, strict=True))
    right = sum(exercise.reference == answer for exercise, answer in zip(exercises, drawn, strict=True))
    assert right < 10
    assert exercises[0].heard("ganz etwas anderes") == [None] * len(phrases.SLOTS)


def test_the_short_window_hears_as_the_full_one_does(task, processor):
    model = Qwen2AudioForConditionalGeneration.from_pretrained(task / "model").eval()
    speech = warm_start.Speech.load(processor, corpus.plan(task / "data", 32).val)
    assert warm_start.window_error(model, speech, clips=2) < 1e-4

    def window_gives():
        with torch.no_grad(), warm_start.window(model):
            return warm_start.log_probs(model, speech.batch([0], speech.exercises(phrases.NAME)[:1], ["zwei"]))

    before = window_gives()
    positions = tiny_model.audio_tower(model).embed_positions.weight
    positions.data.copy_(positions.data.flip(0))
    assert (window_gives() - before).abs().max() > 1e-2  # so other positions would have shown


def test_warm_start_lowers_both_losses_and_leaves_no_hook(task, processor, capfd):
    speech = warm_start.Speech.load(processor, corpus.plan(task / "data", 32).train)
    model = tiny_model.build_model(processor)
    exercises = speech.exercises(phrases.NAME)[:8]
    batch = speech.batch(list(range(8)), exercises, [exercise.reference for exercise in exercises])

    def likelihood():
        with torch.no_grad(), warm_start.window(model):
            return warm_start.log_probs(model, batch).mean().item()

    before = likelihood()
    warm_start.train(model, speech, steps=12)
    assert likelihood() > before + 0.5
    assert not tiny_model.audio_tower(model)._forward_hooks
    said = capfd.readouterr()
    assert "\r" not in said.out + said.err and len(said.out + said.err) < 200  # no bar in the log of a run
    assert tiny_model.audio_tower(model).embed_positions.num_embeddings == 1500
