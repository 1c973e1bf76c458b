"""``verl-leaf prepare`` on miniature copies of the paper's corpora: which rows there are, and why others are not."""

import gzip
import hashlib
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from tests.helpers import corpora
from tests.helpers.corpora import (
    RATE,
    around,
    audio,
    conversation,
    everything,
    pitch,
    prepare,
    prompt,
    rejected,
    report,
    rows,
)
from verl_leaf.prepare.corpus import SPLITS, choose, fraction


def test_librisqa(tmp_path):
    corpora.librisqa(tmp_path)
    out = tmp_path / "out"
    assert prepare("librisqa", "--questions", tmp_path / "questions", "--audio", tmp_path, "--out", out) == 0
    train, validation, test = (rows(out, split) for split in ("train", "validation", "test"))
    assert len(train) + len(validation) == 11 and len(test) == 1
    for row, held_out in [*((row, False) for row in train), *((row, True) for row in validation)]:
        stem = row["audios"][0]["path"].split("/")[-1].removesuffix(".flac")
        assert (fraction(stem) < 0.2) == held_out
        number = int(stem[-4:])
        assert row["reward_model"] == {"style": "rule", "ground_truth": [f"It is {number}."]}
        assert prompt(row).count("<audio>") == 1 and f"What is said in {number}?" in prompt(row)
        assert pitch(audio(row, out)) == pytest.approx(300 + number, abs=2)
    assert len({prompt(row).replace(row["extra_info"]["question"], "") for row in train}) > 1
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().strip().split("\n")]
    assert [(line["id"], line["source"]) for line in lines] == [
        ("100-121669-0001-1", f"LibriSQA-PartI-{split}.json, record 1") for split in ("train", "test")
    ]
    assert all("no such file below" in line["reason"] for line in lines)
    assert report(out)["rows_read"] == 14


def librisqa_records(root, records):
    for split in ("train", "test"):
        (root / f"LibriSQA-PartI-{split}.json").write_text(json.dumps(records if split == "train" else [None]))
    return "librisqa", "--questions", root, "--audio", root / "speech"


def test_librisqa_holds_out_a_fifth_of_the_clips(tmp_path):
    below, above = around(0.2, "100-{}-0001".format)
    records = []
    for stem in (below, above):
        corpora.write(tmp_path / f"speech/train-clean-360/{stem}.flac", corpora.tone(300, 0.2))
        records += [{"speech_path": f"train-clean-360/{stem}.wav", "question": q, "answer": "x"} for q in ("A?", "B?")]
    out = tmp_path / "out"
    assert prepare(*librisqa_records(tmp_path, records), "--out", out) == 0
    assert [{below in row["audios"][0]["path"] for row in rows(out, split)} for split in ("train", "validation")] == [
        {False},
        {True},
    ]
    assert [len(rows(out, split)) for split in ("train", "validation", "test")] == [2, 2, 0]


def test_librisqa_names_every_record_that_is_left_out(tmp_path):
    corpora.write(tmp_path / "speech/a/a.flac", corpora.tone(300, 0.2))
    corpora.write(tmp_path / "speech/LibriSpeech/a/b.wav", corpora.tone(300, 0.2))
    corpora.write(tmp_path / "speech/a/c.ogg", corpora.tone(300, 0.2))
    (tmp_path / "speech/a/empty.flac").touch()
    good = {"speech_path": "a/a.wav", "question": "What?", "answer": 7}
    changes = [
        {},
        {"speech_path": None, "audio_path": "LibriSpeech/a/b.flac", "path": "none.wav"},
        {"speech_path": "a/a.flac", "audio_path": "none.wav", "question": "Who?"},
        {},
        {"question": ""},
        {"answer": None},
        {"speech_path": ["a/a.wav"]},
        {"speech_path": "."},
        {"speech_path": "a/" + 300 * "a"},
        {"answer": "\ud800"},
        {"speech_path": "a/empty.wav"},
        {"speech_path": "a/c.ogg"},
    ]
    out = tmp_path / "out"
    arguments = librisqa_records(tmp_path, [*({**good, **change} for change in changes), "text"])
    assert prepare(*arguments, "--out", out) == 0
    assert set(everything(out)) == {"a-0", "b-1", "a-2", "c-11"} and everything(out)["a-0"]["reward_model"][
        "ground_truth"
    ] == ["7"]
    reasons = rejected(out)
    assert reasons.pop("a-3") == "it is a duplicate of LibriSQA-PartI-train.json, record 0"
    assert reasons.pop("a-4") == reasons.pop("a-5") == "it lacks audio, question or answer"
    assert "speech_path is of the type list" in reasons.pop("LibriSQA-PartI-train.json, record 6")
    assert reasons.pop("LibriSQA-PartI-train.json, record 7") == "it lacks audio, question or answer"
    assert "no such file" in reasons.pop(f"{300 * 'a'}-8")
    assert "half a surrogate pair" in reasons.pop("a-9")
    assert "cannot be read as audio" in reasons.pop("empty-10")
    assert "it is not an object but 'text'" in reasons.pop("LibriSQA-PartI-train.json, record 12")
    assert "it is not an object but 'None'" in reasons.pop("LibriSQA-PartI-test.json, record 0")
    assert not reasons and report(out)["rows_read"] == 14


def test_covost2(tmp_path, capsys):
    corpora.covost2(tmp_path)
    out = tmp_path / "out"
    translations = tmp_path / "covost_v2.en_de.tsv"
    assert prepare("covost2", "--translations", translations, "--audio", tmp_path / "cv", "--out", out, "--embed") == 0
    answers = {split: [row["reward_model"]["ground_truth"] for row in rows(out, split)] for split in ("train", "test")}
    assert answers["train"] == [['Sage "0 jetzt.'], ['ein "alter" \tHund \\']]
    assert answers["test"] == [['Sage "4 jetzt.'], ["Sage es anders."]]
    assert [row["extra_info"]["id"] for row in rows(out, "validation")] == ["common_voice_en_2"]
    held_out = [*rows(out, "validation"), *rows(out, "test")]
    assert {prompt(row) for row in held_out} == {"<audio>\nTranslate the English speech into German."}
    row = rows(out, "train")[0]
    assert row["data_source"] == "covost2_en_de" and "German" in prompt(row)
    assert row["audios"][0]["bytes"] == (tmp_path / "cv/clips/common_voice_en_0.mp3").read_bytes()
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().strip().split("\n")]
    reasons = {int(line["source"].split()[-1]): line["reason"] for line in lines}
    assert reasons.pop(5) == "its split is 'dev_covost', but only train, train_covost, dev, test are used"
    assert reasons.pop(7) == "its split is 'test_covost', but only train, train_covost, dev, test are used"
    assert "clips/common_voice_en_6.mp3: no such file" in reasons.pop(8)
    assert reasons.pop(9) == (
        "it is not in validated.tsv (1 of its lines have a wrong number of fields; the first is validated.tsv, line 11)"
    )
    assert reasons.pop(10) == "there are 4 fields, but the header has 3"
    assert "common_voice_en_9.mp3: it cannot be read as audio" in reasons.pop(11)
    assert reasons.pop(12) == "it is a duplicate of covost_v2.en_de.tsv, line 2"
    assert reasons.pop(13) == "it has no translation"
    assert reasons.pop(15) == "its split is 'other', but only train, train_covost, dev, test are used"
    assert not reasons and report(out)["rows_read"] == 14
    assert report(out)["left_out"]["its split is 'dev_covost', but only train, train_covost, dev, test are used"] == 1
    assert report(out)["ids_of_several_rows"] == 1  # a clip twice, with other translations
    shown = capsys.readouterr().out
    assert "14 rows read, 5 written, 9 left out" in shown
    assert "1 id(s) occur in several rows; the first is 'common_voice_en_4'" in shown


def test_dailytalk(tmp_path):
    corpora.dailytalk(tmp_path)
    out = tmp_path / "out"
    talk = tmp_path / "DailyTalk"
    assert prepare("dailytalk", "--questions", tmp_path / "questions", "--audio", talk, "--out", out) == 0
    found = everything(out)
    assert set(found) == {"a", "b", "middle", "end", "nowhere", "40 s"}
    written = soundfile.info(out / found["a"]["audios"][0]["path"])
    assert (written.format, written.subtype, written.samplerate, written.channels) == ("FLAC", "PCM_16", 16000, 1)
    joined = audio(found["a"], out)
    assert len(joined) == 12 * RATE // 4
    turns = [pitch(turn) for turn in np.split(joined, 12)]
    assert turns == pytest.approx([200 + 50 * turn for turn in range(12)], abs=5)  # turn 10 comes after 9
    assert {id: prompt(row) for id, row in found.items()} == {
        "a": "<audio>\nWho speaks?",
        "b": "<audio>\nWho speaks?",
        "middle": "Hear <audio> and say who speaks.",
        "end": "Who speaks?\n<audio>",
        "nowhere": "<audio>\nWho speaks?",
        "40 s": "<audio>\nWho speaks?",
    }
    assert found["nowhere"]["reward_model"]["ground_truth"] == ["5"]
    reasons = rejected(out)
    assert reasons["40.1 s"] == "the audio lasts 40.1 s, more than 40 s"
    assert "dialogue 7: there are no utterances" in reasons["c"]
    assert reasons["d"] == "it lasts 40.01 s, more than 40 s"
    assert reasons["e"] == reasons["f"] == reasons["g"] == "it is multiple choice"
    assert "cannot be read (SyntaxError" in reasons["literal"]
    assert reasons["turns"] == "conversations has 4 turns instead of one of human and one of gpt"
    assert reasons["twice"] == "the question contains <sound> in more than one place"
    assert reasons["silent"] == "it has no question"
    assert "three" in reasons["long"]
    assert reasons["none"] == "sound is neither the name of a file nor a list of names"
    assert reasons["name"] == "\u00b2.wav: the name is not the number of a dialogue"
    assert "does not contain every turn once" in reasons["gap"] and reasons["gap"].endswith("but the turns 0, 2")
    assert "data/5/1_1_d5.wav" in reasons["empty"]
    assert reasons["DailyTalk_LongAudio.json, record 21"] == "it has no id, which would decide its split"
    assert reasons["a"] == "it is a duplicate of DailyTalk_LongAudio.json, record 0"
    assert "it is not an object but 'None'" in reasons["DailyTalk_LongAudio.json, record 23"]
    assert report(out)["rows_read"] == 24 == len(found) + len(reasons)
    assert len([*(out / "audio").iterdir()]) == 1  # of "a"; nothing is left of those that were left out


def test_one_prompt_for_all_of_longaudio(tmp_path):
    corpora.dailytalk(tmp_path)
    out = tmp_path / "out"
    where = ["--questions", tmp_path / "questions", "--audio", tmp_path / "DailyTalk"]
    assert prepare("dailytalk", *where, "--out", out, "--prompt", "{question} <audio> Be short.") == 0
    assert prompt(everything(out)["end"]) == "Who speaks? <audio> Be short."


def test_longaudio_splits_by_a_hash_of_the_id(tmp_path):
    splits = {}
    for threshold, names in ((0.1, ("test", "validation")), (0.2, ("validation", "train"))):
        splits |= dict(zip(around(threshold, "dialogue {}".format), names, strict=True))
    corpora.write(tmp_path / "talk/d0003/0_1_d3.wav", corpora.tone(300, 0.2))
    records = [{"id": id, "sound": "3.wav", "conversations": conversation("Who?", "Ann.")} for id in splits]
    (tmp_path / "DailyTalk_LongAudio.json").write_text("\n".join(map(json.dumps, records)))
    out = tmp_path / "out"
    assert prepare("dailytalk", "--questions", tmp_path, "--audio", tmp_path / "talk", "--out", out) == 0
    assert {id: row["extra_info"]["split"] for id, row in everything(out).items()} == splits


@pytest.mark.parametrize("hub", [True, False])
def test_parliament(tmp_path, hub):
    corpora.parliament(tmp_path, hub)
    out = tmp_path / "out"
    places = [
        argument for name in ("questions", "europarl", "voxpopuli") for argument in (f"--{name}", tmp_path / name)
    ]
    assert prepare("parliament", *places, "--out", out) == 0
    found = everything(out)
    assert set(found) == {"1", "2", "4"}
    assert len(audio(found["1"], out)) == pytest.approx(3 * RATE, abs=10)
    assert pitch(audio(found["1"], out)) == pytest.approx(300, abs=3)
    first, second = np.split(audio(found["2"], out), [RATE])
    assert (pitch(first), pitch(second)) == pytest.approx((300, 600), abs=3) and len(second) == pytest.approx(
        3 * RATE, abs=10
    )
    voices = audio(found["4"], out)
    pieces = np.split(voices, len(voices) // RATE)
    assert [pitch(piece) for piece in pieces] == pytest.approx([350, 450] if hub else [350, 350, 450], abs=3)
    reasons = rejected(out)
    assert "en.19990101.1.m4a: no such file" in reasons["3"]
    assert "nowhere.wav: it is not in" in reasons["5"]
    assert "s after 7 s, but the segment has 2" in reasons["6"]
    assert "ends before it begins" in reasons["7"]
    assert "is not named <base>_<start>_<end>.wav" in reasons["8"]
    assert report(out)["rows_read"] == 8


def test_a_recording_may_end_half_a_second_early(tmp_path):
    corpora.write_m4a(tmp_path / "europarl/en/audios/en.1.m4a", corpora.tone(300, 2))
    said = conversation("What?", "This.")
    records = [{"id": end, "sound": f"en.1_0_{end}.wav", "conversations": said} for end in ("2.5", "2.7")]
    (tmp_path / "Europarl_LongAudio.json").write_text(json.dumps(records))
    out = tmp_path / "out"
    assert prepare("parliament", "--questions", tmp_path, "--europarl", tmp_path / "europarl", "--out", out) == 0
    assert set(everything(out)) == {"2.5"} and set(rejected(out)) == {"2.7"}


def test_parliament_speech_lasts_40_seconds_at_most(tmp_path):
    corpora.write_m4a(tmp_path / "europarl/en/audios/en.1.m4a", corpora.tone(300, 41))
    said = conversation("What?", "This.")
    records = [{"id": end, "sound": f"en.1_0_{end}.wav", "conversations": said} for end in ("40.0", "40.1")]
    (tmp_path / "Europarl_LongAudio.json").write_text(json.dumps(records))
    out = tmp_path / "out"
    assert prepare("parliament", "--questions", tmp_path, "--europarl", tmp_path / "europarl", "--out", out) == 0
    assert set(everything(out)) == {"40.0"} and rejected(out) == {"40.1": "the audio lasts 40.1 s, more than 40 s"}


def test_odd_files_among_those_of_voxpopuli(tmp_path):
    """Hidden tables are left out; if one cannot be used, every row that it may explain says so."""
    corpora.parliament(tmp_path, hub=True)
    folder = tmp_path / "voxpopuli"
    (folder / "._train-00000.parquet").write_bytes(b"\0\5\x16\7")
    (folder / ".cache").mkdir()
    (folder / ".cache/train.parquet").write_bytes(b"PAR1")
    where = ["--questions", tmp_path / "questions", "--voxpopuli", folder]
    assert prepare("parliament", *where, "--out", tmp_path / "one") == 0
    assert set(everything(tmp_path / "one")) == {"4"} and rejected(tmp_path / "one")["5"].endswith("voxpopuli")
    (folder / "train-00001.parquet").write_bytes((folder / "train-00000.parquet").read_bytes()[:-20])
    pyarrow.parquet.write_table(pyarrow.table({"id": [1]}), folder / "other.parquet")
    assert prepare("parliament", *where, "--out", tmp_path / "two") == 0
    assert set(everything(tmp_path / "two")) == {"4"}
    assert "(2 of its parquet files cannot be used: " in rejected(tmp_path / "two")["5"]


def test_voice_activity_that_cannot_be_used(tmp_path):
    corpora.parliament(tmp_path, hub=False)
    with gzip.open(tmp_path / "voxpopuli/asr_en.tsv.gz", "rt") as file:
        table = file.read()
    for number, times in enumerate(("[(2.0, 1.0)]", "[]", "[(0, 1", "5", "[(1e999, 2)]")):
        with gzip.open(tmp_path / "voxpopuli/asr_en.tsv.gz", "wt") as file:
            file.write(table.replace("[(0.0, 1.0), (2.0, 3.0)]", times))
        out = tmp_path / f"out{number}"
        where = ["--questions", tmp_path / "questions", "--europarl", tmp_path / "europarl"]
        assert prepare("parliament", *where, "--voxpopuli", tmp_path / "voxpopuli", "--out", out) == 0
        assert f"contains invalid times of speech, {times!r}" in rejected(out)["4"]


def test_phrasings_are_chosen_by_md5():
    text = "Who speaks?"
    number = int(hashlib.md5(text.encode()).hexdigest()[:8], 16)
    assert choose(("a", "b", "c"), text) == ("a", "b", "c")[number % 3]
    assert fraction(text) == number / 16**8


def test_fillets_has_no_speaker_and_no_scene_on_both_sides(tmp_path, capsys):
    fish = [("big", "What is that?"), ("small", 'A \\"ship\\".')]
    others = [("crab", f"Go away {n}.") for n in range(5)]
    scenes = {f"sea{n}": fish for n in range(3)} | {"beach": [*fish, *others], "shore": [*others, ("gull", "Ah.")]}
    scenes |= {"temple": [(f"god{n}", "We gods.") for n in range(5)], "sea0": [*fish, ("crab", "I pass."), ("big", "")]}
    corpora.fillets(tmp_path / "game", scenes)
    assert prepare("fillets", "--game", tmp_path / "game", "--out", tmp_path / "out") == 0
    assert "GPL-2" in capsys.readouterr().out
    found = {split: [row["extra_info"]["id"] for row in rows(tmp_path / "out", split)] for split in SPLITS}
    assert sorted(found["train"]) == [f"sea{n}/sea{n}-{line}" for n in range(3) for line in range(2)]
    assert {id.split("/")[0] for id in found["validation"]} == {"beach", "shore"}  # the crab is in both
    assert {id.split("/")[0] for id in found["test"]} == {"temple"}
    row = rows(tmp_path / "out", "train")[0]
    assert row["reward_model"]["ground_truth"][0] in ("What is that?", 'A "ship".')
    reasons = rejected(tmp_path / "out")
    assert reasons["beach/beach-0"] == "its scene is for validation, but its speaker, font_big, is for another split"
    assert reasons["sea0/sea0-2"] == "its scene is for train, but its speaker, font_crab, is for another split"
    assert reasons["sea0/sea0-3"] == "it has no text in English"


def test_where_only_the_fish_talk_one_of_them_is_held_out(tmp_path):
    scenes = {f"sea{n}": [("big", "Oh."), ("small", "Ah.")] for n in range(20)}
    corpora.fillets(tmp_path / "game", scenes, "nl")
    assert prepare("fillets", "--game", tmp_path / "game", "--voices", "nl", "--out", tmp_path / "out") == 0
    for split, line, low, high in (("test", 1, 0, 0.2), ("validation", 1, 0.2, 0.4), ("train", 0, 0.4, 1)):
        expected = sorted(f"{scene}/{scene}-{line}" for scene in scenes if low <= fraction(scene) < high)
        assert expected and sorted(row["extra_info"]["id"] for row in rows(tmp_path / "out", split)) == expected


@pytest.mark.parametrize("language", ["en", "fr"])
def test_asterisk(tmp_path, capsys, language):
    corpora.asterisk(tmp_path)
    where = "--sounds", tmp_path / "sounds", "--texts", tmp_path / "doc", "--answers", language
    assert prepare("asterisk", *where, "--out", tmp_path / "out") == 0
    assert "CC-BY-SA-3.0" in capsys.readouterr().out
    answers = {id: row["reward_model"]["ground_truth"] for id, row in everything(tmp_path / "out").items()}
    assert answers == {f"dir/p{n}": [f"{language} {n}."] for n in range(language == "fr", 19)}
    reasons = {"beep": "it has no speech", "dir/p19": "no such file"}
    assert rejected(tmp_path / "out") == reasons | ({"dir/p0": "it has no text in French"} if language == "fr" else {})
