"""Every bad input of ``verl-leaf prepare`` ends as one line that names it and says what to do."""

import gzip
import json
import os

import pyarrow
import pyarrow.parquet
import pytest

from tests.helpers import corpora
from tests.helpers.corpora import prepare

CORPORA = {
    "librisqa": ["--questions", "questions", "--audio", "speech"],
    "covost2": ["--translations", "covost_v2.en_de.tsv", "--audio", "cv"],
    "dailytalk": ["--questions", "questions", "--audio", "speech"],
    "parliament": ["--questions", "questions", "--europarl", "speech", "--voxpopuli", "vox"],
    "manifest": ["mine.csv"],
}
# The files of each that are read as tables, and what reads them.
FILES = {
    "librisqa": "questions/LibriSQA-PartI-train.json",
    "covost2": "covost_v2.en_de.tsv",
    "dailytalk": "questions/DailyTalk_LongAudio.json",
    "parliament": "questions/Europarl_LongAudio.json",
    "manifest": "mine.csv",
}
VALIDATED, SESSIONS = "cv/validated.tsv", "vox/asr_en.tsv.gz"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return inputs of all corpora that are complete except for their audio."""
    monkeypatch.chdir(tmp_path)
    for name in ("questions", "speech", "cv/clips", "vox"):
        os.makedirs(name)
    record = {"id": "a", "sound": "0.wav", "conversations": corpora.conversation("Who?", "Ann.")}
    for name in (
        "LibriSQA-PartI-train",
        "LibriSQA-PartI-test",
        *(f"{x}_LongAudio" for x in ("DailyTalk", "Europarl", "VoxPopuli")),
    ):
        with open(f"questions/{name}.json", "w") as file:
            json.dump([record | {"path": "a/a.wav", "question": "Who?", "answer": "Ann."}], file)
    (tmp_path / FILES["covost2"]).write_text("path\ttranslation\tsplit\na.mp3\tja\ttrain\n")
    (tmp_path / VALIDATED).write_text("path\tsentence\na.mp3\tyes\n")
    (tmp_path / FILES["manifest"]).write_text("audio,question,answer\na.wav,Who?,Ann.\n")
    with gzip.open(SESSIONS, "wt") as file:
        file.write("session_id|id_|vad\na|b|[(0, 1)]\n")
    return tmp_path


def one_line(capsys, corpus: str, *more) -> str:
    """The one line of error that a call ends with."""
    assert prepare(corpus, *CORPORA[corpus], "--out", "out", *more) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("verl-leaf prepare: ") and shown.count("\n") == 1
    return shown


def missing(file):
    file.unlink()


def directory(file):
    file.unlink()
    file.mkdir()


def unreadable(file):
    file.unlink()
    file.symlink_to("/proc/self/mem")  # what is at its start cannot be read, not even by root


def content(data: bytes):
    def write(file):
        file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)

    return write


BAD = {
    "missing": missing,
    "directory": directory,
    "unreadable": unreadable,
    "empty": content(b""),
    "blank": content(b"\n\n  \n"),
    "null": content(b"null"),
    "no rows": content(b"[]"),
    "header only": content(b"audio,question,answer,path\ttranslation\tsplit\n"),
    "other columns": content(b"a,b\tc|d\n1,2\t3|4\n"),
    "spreadsheet": content(b"PK\3\4\x14\0\6\0\x08\0\0\0\xe0\xb5"),
    "cp1252": content("audio,question,answer\na.wav,Wer?,Müller\n".encode("cp1252")),
    "broken utf-16": content("path".encode("utf-16")[:-1]),
    "nul": content(b"audio,question,answer\na.wav,Who?,\0\n"),
    "half a json": content(b'[{"id": "a", "sound": '),
    "deep json": content(b"[" * 100_000),
    "huge number": content(b"[" + b"9" * 5000 + b"]"),
    "key twice": content(b'[{"id": 1, "id": 2}]'),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("corpus", CORPORA)
def test_a_bad_table(folder, capsys, corpus, bad):
    file = folder / FILES[corpus]
    BAD[bad](file)
    assert file.name in one_line(capsys, corpus)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("corpus, name", [("covost2", VALIDATED), ("parliament", SESSIONS)])
def test_a_bad_table_beside_the_audio(folder, capsys, corpus, name, bad):
    BAD[bad](folder / name)
    shown = one_line(capsys, corpus)
    assert folder.joinpath(name).name in shown or "asr_en.tsv.gz" in shown


@pytest.mark.parametrize(
    "data",
    [b"no gzip", gzip.compress(b"a" * 1000)[:-12], gzip.compress(b"abc")[:10] + b"\xff" * 9],
    ids=["no gzip", "cut off", "damaged"],  # (the bytes hold the time)
)
def test_a_damaged_gzip_file(folder, capsys, data):
    (folder / SESSIONS).write_bytes(data)
    assert "asr_en.tsv.gz" in one_line(capsys, "parliament")


@pytest.mark.parametrize("bad", [*BAD, "cut off", "columns"])
def test_a_bad_parquet_file(folder, capsys, bad):
    file = folder / "mine.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"audio": ["a.wav"], "question": ["Who?"]}), file)
    if bad == "cut off":
        os.truncate(file, file.stat().st_size // 2)
    elif bad in BAD:
        BAD[bad](file)
    assert prepare("manifest", "mine.parquet", "--out", "out") == 2
    shown = capsys.readouterr().err
    assert "mine.parquet" in shown and shown.count("\n") == 1


@pytest.mark.parametrize("kind", ["missing", "file"])
@pytest.mark.parametrize(
    "corpus, option",
    [
        ("librisqa", "--audio"),
        ("librisqa", "--questions"),
        ("covost2", "--audio"),
        ("dailytalk", "--audio"),
        ("dailytalk", "--questions"),
        ("parliament", "--europarl"),
        ("parliament", "--voxpopuli"),
        ("parliament", "--questions"),
    ],
)
def test_a_folder_that_is_none(folder, capsys, corpus, option, kind):
    (folder / "file").touch()
    shown = one_line(capsys, corpus, option, kind)
    assert f"{kind} does not exist" in shown if kind == "missing" else "file is not a folder. It should be" in shown


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--workers", "0"], "--workers 0: set it to 1 or more"),
        (["--shard-rows", "0"], "--shard-rows 0: set it to 1 or more"),
        (["--shard-rows", "-5"], "--shard-rows -5: set it to 1 or more"),
        (["--out", "mine.csv"], "mine.csv is not a folder"),
        (["--out", "mine.csv/out"], "mine.csv/out"),
        (["--held-out", "0.5"], "--held-out 0.5: it must be from 0 to below 0.5"),
        (["--held-out", "-0.1"], "--held-out -0.1"),
        (["--held-out", "nan"], "--held-out nan"),
        (["--split-column", "fold"], "there is no column fold. The columns are audio, question, answer"),
        (["--id-column", "key"], "no column key"),
        (["--answer-column", "say"], "no column say"),
    ],
)
def test_bad_arguments(folder, capsys, arguments, message):
    (folder / "a.wav").touch()
    assert prepare("manifest", "mine.csv", "--out", "out", "--workers", "1", *arguments[:0]) == 2  # a.wav is empty
    capsys.readouterr()
    call = ["prepare", "manifest", "mine.csv", "--out", "other", *arguments]
    assert corpora.main(call) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["librisqa", "--audio", "none"], "none does not exist. It should be LibriSpeech"),
        (["librisqa", "--questions", ".", "--audio", "."], "has no LibriSQA-PartI-train.json"),
        (["covost2", "--translations", "de.tsv", "--audio", "."], "is not named covost_v2.<source>_<target>.tsv"),
        (["covost2", "--translations", "covost_v2.en_xx.tsv", "--audio", "."], "with two of ar, ca"),
        (["covost2", "--translations", "covost_v2.en_fr.tsv", "--audio", "."], "covost_v2.en_fr.tsv does not exist"),
        (["parliament"], "Give --europarl, --voxpopuli or both"),
        (["parliament", "--questions", "questions", "--voxpopuli", "cv"], "neither parquet files with audio_id"),
        (["manifest", "none.csv"], "none.csv does not exist"),
        (["manifest", "mine.xlsx"], "the name must end in one of .csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet"),
        (
            ["manifest", "mine.jsonl"],
            "mine.jsonl: there is no column audio, question, answer. The columns are clip, ask, say",
        ),
        (["manifest", "twice.csv"], "twice.csv: the column answer occurs 2 times"),
        (["manifest", "twice.jsonl"], "twice.jsonl, line 1: the key 'answer' occurs 2 times"),
        (["manifest", "half.jsonl"], "half.jsonl, line 2: "),
    ],
)
def test_what_is_missing_or_wrong_is_named(folder, capsys, arguments, message):
    (folder / "mine.xlsx").write_bytes(b"PK")
    (folder / "mine.jsonl").write_text(json.dumps({"clip": "a", "ask": "b", "say": "c"}))
    (folder / "twice.csv").write_text("audio,question,answer, answer\n1,2,3,4\n")
    (folder / "twice.jsonl").write_text('{"audio": "a.wav", "question": "Who?", "answer": "a", "answer": "b"}')
    (folder / "half.jsonl").write_text('{"audio": "a.wav", "question": "Who?", "answer": "a"}\n{"audio": "a.w')
    assert prepare(*arguments, "--out", "out") == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1
