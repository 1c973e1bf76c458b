"""``verl-leaf prepare`` and ``verl-leaf data`` on miniature corpora."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.helpers import corpora
from verl_leaf.cli import main
from verl_leaf.prepare.corpus import choose, fraction
from verl_leaf.speech.audio import load_audio
from verl_leaf.speech.rows import absolute_audio

RATE = 16000


def prepare(*arguments) -> int:
    return main(["prepare", *map(str, arguments), "--workers", "2"])


def rows(folder, split) -> list[dict]:
    files = sorted(folder.glob(f"{split}*.parquet"))
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def everything(folder) -> dict[str, dict]:
    return {row["extra_info"]["id"]: row for split in ("train", "validation", "test") for row in rows(folder, split)}


def rejected(folder) -> dict[str, str]:
    return {
        entry["id"]: entry["reason"] for entry in map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())
    }


def audio(row, folder, number=0) -> np.ndarray:
    return load_audio(absolute_audio(row["audios"][number], str(folder)), RATE)


def pitch(waveform) -> float:
    return np.abs(np.fft.rfft(waveform)).argmax() * RATE / len(waveform)


def digest(folder) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def prompt(row) -> str:
    return row["prompt"][0]["content"]


def test_librisqa(tmp_path):
    corpora.librisqa(tmp_path)
    out = tmp_path / "out"
    assert prepare("librisqa", "--questions", tmp_path / "questions", "--audio", tmp_path, "--out", out) == 0
    train, validation, test = (rows(out, split) for split in ("train", "validation", "test"))
    assert len(train) + len(validation) == 11 and len(test) == 1
    for row, held_out in [*((row, False) for row in train), *((row, True) for row in validation)]:
        stem = row["audios"][0].split("/")[-1].removesuffix(".flac")
        assert (fraction(stem) < 0.2) == held_out
        number = int(stem[-4:])
        assert row["reward_model"] == {"style": "rule", "ground_truth": f"It is {number}."}
        assert prompt(row).count("<audio>") == 1 and f"What is said in {number}?" in prompt(row)
        assert pitch(audio(row, out)) == pytest.approx(300 + number, abs=2)
    assert len({prompt(row).replace(row["extra_info"]["question"], "") for row in train}) > 1
    assert set(rejected(out)) == {"100-121669-0001"}
    report = json.loads((out / "report.json").read_text())
    assert sum(report["left_out"].values()) == 2
    assert report["splits"]["train"]["rows"] == len(train)


def test_covost2(tmp_path):
    corpora.covost2(tmp_path)
    out = tmp_path / "out"
    translations = tmp_path / "covost_v2.en_de.tsv"
    assert prepare("covost2", "--translations", translations, "--audio", tmp_path / "cv", "--out", out, "--embed") == 0
    assert [row["reward_model"]["ground_truth"] for row in rows(out, "train")] == ['Sage "0 jetzt.', 'Sage "1 jetzt.']
    assert [len(rows(out, split)) for split in ("validation", "test")] == [1, 2]
    assert len({prompt(row) for row in [*rows(out, "validation"), *rows(out, "test")]}) == 1
    row = rows(out, "train")[0]
    assert row["data_source"] == "covost2_en_de" and "German" in prompt(row)
    assert row["audios"][0]["bytes"] == (tmp_path / "cv/clips/common_voice_en_0.mp3").read_bytes()
    reasons = rejected(out)
    assert "clips/common_voice_en_6.mp3: no such file" in reasons["common_voice_en_6.mp3"]
    assert reasons["common_voice_en_7.mp3"] == "is not in validated.tsv"


def test_dailytalk(tmp_path):
    corpora.dailytalk(tmp_path)
    out = tmp_path / "out"
    assert (
        prepare("dailytalk", "--questions", tmp_path / "questions", "--audio", tmp_path / "DailyTalk", "--out", out)
        == 0
    )
    found = everything(out)
    assert set(found) == {"a", "b"}
    joined = audio(found["a"], out)
    assert len(joined) == 12 * RATE // 4
    turns = [pitch(turn) for turn in np.split(joined, 12)]
    assert turns == pytest.approx([200 + 50 * turn for turn in range(12)], abs=5)  # turn 10 comes after 9
    for id, row in found.items():
        share = fraction(id)
        assert row["extra_info"]["split"] == ("test" if share < 0.1 else "validation" if share < 0.2 else "train")
    reasons = rejected(out)
    assert "dialogue 7: no utterances" in reasons["c"]
    assert reasons["d"] == "lasts 41 s, more than 40"
    assert reasons["e"] == reasons["f"] == "is multiple choice"
    assert "cannot be understood (SyntaxError" in reasons["g"]


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
    assert "en.19990101.1.m4a: no such file" in rejected(out)["3"]
    assert "nowhere.wav: not in" in rejected(out)["5"]


@pytest.fixture
def manifest(tmp_path):
    """Six clips, one of them no audio, and a table of them as a function of its kind."""
    for number in range(6):
        corpora.write(tmp_path / f"clips/{number}.wav", corpora.tone(300 + 10 * number, 0.4))
    (tmp_path / "clips/4.wav").write_text("no audio")
    table = [
        {
            "clip": [f"clips/{number}.wav", "clips/0.wav"] if number == 2 else f"clips/{number}.wav",
            "ask": "Compare <audio> with <audio>." if number == 2 else f"Question {number}?",
            "say": [f"yes {number}", "no"] if number == 3 else f"yes {number}",
            "split": "test" if number == 5 else "train",
        }
        for number in range(6)
    ]

    def build(kind):
        file = tmp_path / f"mine.{kind}"
        if kind == "jsonl":
            file.write_text("\n".join(map(json.dumps, table)))
        elif kind == "csv":
            with open(file, "w", newline="") as lines:
                writer = csv.DictWriter(lines, table[0])
                writer.writeheader()
                writer.writerows(
                    {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
                    for row in table
                )
        else:
            several = [
                {
                    name: value if isinstance(value, list) or name in ("ask", "split") else [value]
                    for name, value in row.items()
                }
                for row in table
            ]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(several), file)
        return ["manifest", file, "--audio-column", "clip", "--question-column", "ask", "--answer-column", "say"]

    return build


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_manifest(tmp_path, manifest, kind):
    out = tmp_path / "out"
    assert prepare(*manifest(kind), "--out", out) == 0
    train = rows(out, "train")
    assert [row["extra_info"]["id"] for row in train] == ["0", "1", "2", "3"]
    assert len(rows(out, "test")) == 1 and train[0]["data_source"] == "mine"
    assert [row["reward_model"]["ground_truth"] for row in train] == [["yes 0"], ["yes 1"], ["yes 2"], ["yes 3", "no"]]
    assert prompt(train[2]) == "Compare <audio> with <audio>." and len(train[2]["audios"]) == 2
    assert pitch(audio(train[2], out, 1)) == pytest.approx(300, abs=3)
    assert "clips/4.wav: cannot be read as audio" in rejected(out)["4"]
    assert main(["data", str(out / "train.parquet")]) == 0
    assert main(["data", str(out / "train.parquet"), "--fast"]) == 0


def test_a_prompt_of_ones_own(tmp_path, manifest):
    out = tmp_path / "out"
    assert prepare(*manifest("jsonl"), "--out", out, "--prompt", "Hear <audio>, then: {question}") == 0
    assert prompt(rows(out, "train")[0]) == "Hear <audio>, then: Question 0?"
    with_less = prepare(*manifest("jsonl"), "--out", tmp_path / "other", "--prompt", "Hear!")
    assert with_less == 2


def test_the_trainer_takes_what_was_prepared_and_data_says_so(tmp_path, manifest, task, capsys):
    out = tmp_path / "out"
    prepare(*manifest("jsonl"), "--out", out)
    capsys.readouterr()
    assert main(["data", str(out / "train.parquet"), "--model", str(task / "model")]) == 0
    assert main(["data", str(out / "train.parquet"), "--model", str(task / "model"), "--max-prompt-length", "20"]) == 2
    assert "train.parquet, row 0: the prompt has" in capsys.readouterr().err
    (tmp_path / "clips/1.wav").unlink()
    assert main(["data", str(out / "train.parquet")]) == 1
    assert "row 1: " in (shown := " ".join(capsys.readouterr().out.split())) and "no such file" in shown


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["librisqa", "--audio", "{}/none"], "none does not exist; it should be LibriSpeech"),
        (["librisqa", "--questions", "{}", "--audio", "{}"], "has no LibriSQA-PartI-train.json"),
        (["covost2", "--translations", "{}/de.tsv", "--audio", "{}"], "is not named covost_v2.<source>_<target>.tsv"),
        (
            ["covost2", "--translations", "{}/covost_v2.en_de.tsv", "--audio", "{}"],
            "covost_v2.en_de.tsv does not exist",
        ),
        (["parliament"], "give --europarl, --voxpopuli or both"),
        (["manifest", "{}/none.csv"], "none.csv does not exist"),
        (["manifest", "{}/mine.jsonl"], "row 0: no column audio, question, answer; it has clip, ask, say, split"),
    ],
)
def test_what_is_missing_is_named(tmp_path, manifest, capsys, arguments, message):
    manifest("jsonl")
    assert prepare(*(argument.replace("{}", str(tmp_path)) for argument in arguments), "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_the_same_input_gives_the_same_bytes(tmp_path, capsys):
    corpora.dailytalk(tmp_path)
    where = ["--questions", tmp_path / "questions", "--audio", tmp_path / "DailyTalk"]
    for out, workers in (("one", "1"), ("two", "2")):
        main(["prepare", "dailytalk", *map(str, where), "--out", str(tmp_path / out), "--workers", workers, "--embed"])
    one, two = digest(tmp_path / "one"), digest(tmp_path / "two")
    assert {name: one[name] for name in one if ".prepare/fingerprint" not in name} == {
        name: two[name] for name in two if ".prepare/fingerprint" not in name
    }
    assert prepare("dailytalk", *where, "--out", tmp_path / "one") == 2  # other options
    assert "holds rows of another input or with other options" in capsys.readouterr().err


def test_goes_on_where_it_was_killed(tmp_path):
    for number in range(40):
        corpora.write(tmp_path / f"{number}.wav", corpora.tone(300, 0.2))
    table = [
        {"audio": f"{number}.wav", "question": f"{number}?", "answer": "x", "split": "train"} for number in range(40)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, table)))
    command = ["prepare", "manifest", str(tmp_path / "mine.jsonl"), "--shard-rows", "2", "--workers", "1", "--out"]
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-m", "verl_leaf.cli", *command, str(out)], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob(".prepare/train-00003-*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {
        file: file.stat().st_mtime_ns
        for file in out.glob("*.parquet")
        if (out / ".prepare" / f"{file.stem}.json").exists()
    }
    assert 4 <= len(done) < 20
    assert main([*command, str(out)]) == 0
    assert {file: file.stat().st_mtime_ns for file in done} == done
    assert [row["extra_info"]["index"] for row in rows(out, "train")] == list(range(40))
    assert main([*command, str(tmp_path / "whole")]) == 0
    assert {k: v for k, v in digest(out).items() if k.endswith("parquet")} == {
        k: v for k, v in digest(tmp_path / "whole").items() if k.endswith("parquet")
    }


def test_phrasings_are_chosen_by_md5():
    text = "Who speaks?"
    number = int(hashlib.md5(text.encode()).hexdigest()[:8], 16)
    assert choose(("a", "b", "c"), text) == ("a", "b", "c")[number % 3]
    assert fraction(text) == number / 16**8
