"""Real recordings of people: prepared, checked, and scored with the word error rate of an independent recogniser."""

import csv
import json
import subprocess
import sys

import pytest

from examples.human_speech.prepare import RECORDINGS
from tests.helpers import PROJECT
from verl_leaf.cli import main
from verl_leaf.data.audio import load_audio
from verl_leaf.evaluate.data import Data

pytestmark = pytest.mark.skipif(not RECORDINGS.exists(), reason="no recordings: apt-get install pocketsphinx-testdata")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("human_speech")
    example(folder, "prepare", "--out", folder)
    assert main(["prepare", "manifest", str(folder / "manifest.csv"), "--out", str(folder / "data")]) == 0
    return folder


def example(folder, name: str, *arguments) -> None:
    command = [sys.executable, "-m", f"examples.human_speech.{name}", *map(str, arguments)]
    subprocess.run(command, cwd=PROJECT, check=True)


def score(folder, answers) -> dict[str, float]:
    test = folder / "data/test.parquet"
    arguments = ["evaluate", answers, "--data", test, "--out", answers.with_suffix(""), "--metrics", "wer", "cer"]
    assert main(list(map(str, arguments))) == 0
    summary = json.loads((answers.with_suffix("") / "summary.json").read_text())
    return {line["metric"]: line["mean"] for line in summary["scores"]}


def test_every_recording_can_be_used(prepared):
    test = prepared / "data/test.parquet"
    assert main(["data", str(test)]) == 0
    rows = Data(test).rows
    assert len(rows) == 5 and rows[1].references == ("he was not an ill disposed young man",)
    recordings = [row["audio"] for row in csv.DictReader((prepared / "manifest.csv").open())]
    assert sum(len(load_audio(file, 16_000)) for file in recordings) / 16_000 == pytest.approx(24.7, abs=0.1)


def test_a_right_and_a_half_right_transcript(prepared):
    rows = Data(prepared / "data/test.parquet").rows
    words = [row.references[0].split() for row in rows]
    for name, texts, expected in (("whole", words, 0), ("half", [own[::2] for own in words], 35 / 71)):
        file = prepared / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"row": n, "text": " ".join(own)}) + "\n" for n, own in enumerate(texts)))
        assert score(prepared, file)["WER ↓"] == pytest.approx(expected)


def test_an_independent_recogniser_hears_them(prepared):
    pytest.importorskip("pocketsphinx", reason="pip install pocketsphinx")
    heard = prepared / "pocketsphinx.jsonl"
    example(prepared, "listen", prepared / "data/test.parquet", "--out", heard)
    assert score(prepared, heard)["WER ↓"] == pytest.approx(0.28, abs=0.03)
