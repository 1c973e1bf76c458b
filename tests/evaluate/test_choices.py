"""Questions with choices: accuracy by group, letters, pairs, MMAU's files, and the prompts of the controls."""

import json

import numpy as np
import pyarrow.parquet
import pytest

from tests.evaluate.conftest import evaluate
from verl_leaf.evaluate.choices import Read, _pair
from verl_leaf.evaluate.data import NO_AUDIO, WRONG_AUDIO, Data
from verl_leaf.evaluate.report import _p_value
from verl_leaf.evaluate.significance import clusters_of
from verl_leaf.runs.swap import write_rows

ROWS = 12
CHOICES = ["dog", "cat", "bird"]


def record(number: int) -> str:
    raw = {"id": f"q{number}", "choices": ["(A) cat", "(B) bird", "(C) dog"], "answer": "(A) cat", "task": "sound"}
    return json.dumps(raw)


@pytest.fixture
def questions(tmp_path):
    """Twelve rows whose right answer is B, cat; the last has two choices and no record."""
    rows = [
        {
            "data_source": "mmau",
            "prompt": [{"role": "user", "content": f"<audio>\nWhat is it, {number}?"}],
            "audios": [f"{number}.wav"],
            "reward_model": {"style": "rule", "ground_truth": ["B", "cat"]},
            "extra_info": {
                "split": "test",
                "choices": CHOICES[: 2 if number == ROWS - 1 else 3],
                "category": "sound" if number < 4 else "music",
                "difficulty": "easy",
                "record": None if number == ROWS - 1 else record(number),
            },
        }
        for number in range(ROWS)
    ]
    write_rows(rows, tmp_path / "questions.parquet")
    return tmp_path / "questions.parquet"


def test_tables_and_files(questions, answers, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    one = answers("one", ["<answer>B</answer>"] * 9 + ["C", "cat", "A or B"])
    two = answers("two", ["cat"] * 3 + ["A"] * 9)
    assert evaluate(one, two, "--data", questions, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [(line["metric"], line["mean"]) for line in summary["scores"]] == [
        ("accuracy", pytest.approx(10 / 12)),
        ("accuracy", pytest.approx(3 / 12)),
    ]
    lines = {(line["group"], line["system"]): line for line in summary["choices"]}
    assert {group for group, _ in lines} == {"together", "category sound", "category music", "difficulty easy"}
    assert lines["together", "one"]["chance"] == pytest.approx((11 / 3 + 1 / 2) / 12)
    assert lines["category sound", "two"]["accuracy"] == 3 / 4 and lines["category music", "two"]["questions"] == 8
    assert lines["together", "one"]["unread"] == pytest.approx(1 / 12)
    right, *letters = summary["letters"]
    assert right == {"who": "right answers", "A": 0, "B": 1, "C": 0, "none": 0}
    assert [line["A"] for line in letters] == [0, 9 / 12] and letters[0]["none"] == pytest.approx(1 / 12)
    (pair,) = summary["pairs"]
    assert (pair["system"], pair["against"], pair["better"], pair["worse"]) == ("two", "one", 0, 7)
    assert pair["p"] == pair["p_holm"] == 2 * 0.5**7  # McNemar's exact test
    assert "Accuracy by group" in printed and "random choice" not in printed and "BLEU" not in printed
    mmau = json.loads((tmp_path / "out/mmau/one.json").read_text())
    assert [row["model_prediction"] for row in mmau] == ["(A) cat"] * 9 + ["(B) bird", "(A) cat"]
    assert mmau[3] | {"model_prediction": 0} == json.loads(record(3)) | {"model_prediction": 0}
    assert (tmp_path / "out/choices.csv").exists() and (tmp_path / "out/pairs.csv").exists()


def test_a_pass_has_a_file_that_no_system_s_name_can_be(questions, answers, tmp_path):
    first, second = (answers(name, [(row, k, "B") for row in range(ROWS) for k in range(2)]) for name in ("x", "x-1"))
    answers("x", [(row, k, "AC"[k]) for row in range(ROWS) for k in range(2)])
    assert evaluate(first, second, "--data", questions, "--out", tmp_path / "out") == 0
    files = {str(file.relative_to(tmp_path / "out/mmau")): file for file in (tmp_path / "out/mmau").rglob("*.json")}
    named = {name: json.loads(file.read_text())[0]["model_prediction"] for name, file in files.items()}
    assert named == {
        "x.json": "(C) dog",
        "pass_1/x.json": "(B) bird",
        "x-1.json": "(A) cat",
        "pass_1/x-1.json": "(A) cat",
    }


def test_pairs_are_counted_by_clip():
    """Rows of one clip are one observation, whatever the number of rows and passes."""
    right, count = np.ones((4, 1), int), np.full((4, 1), 3)
    good, bad = Read(np.ones((4, 2), int), right, count), Read(np.zeros((4, 2), int), right, count)
    line = _pair("good", "bad", good, bad, clusters_of([("x",), ("x",), ("y",), ("z",)]))
    assert (line["better"], line["worse"], line["clips"], line["p"]) == (3, 0, 3, 0.25)
    assert _pair("good", "good", good, good, clusters_of([(), (), (), ()]))["p"] == 1


@pytest.mark.parametrize("p, printed", [(1.0, "1.0000"), (0.0001, "0.0001"), (2 * 0.5**60, "< 0.0001")])
def test_no_p_value_is_printed_as_zero(p, printed):
    assert _p_value(p) == printed


def test_the_prompts_of_the_controls(questions):
    data = Data(questions)
    silent, wrong = data.with_control(NO_AUDIO), data.with_control(WRONG_AUDIO)
    heard = []
    without, with_other = dict(silent._asked(range(ROWS))), dict(wrong._asked(range(ROWS)))
    for number in range(ROWS):
        (part,) = without[number][0]["content"]
        assert part["type"] == "text" and f"What is it, {number}?" in part["text"]
        audio, text = with_other[number][0]["content"]
        assert f"What is it, {number}?" in text["text"]
        heard.append(audio["audio"].split("/")[-1])
    assert sorted(heard) == sorted(f"{number}.wav" for number in range(ROWS))
    assert all(name != f"{number}.wav" for number, name in enumerate(heard))
    assert not data.control and data.digest() == wrong.digest()


def test_a_control_reads_a_file_once(questions, monkeypatch):
    """Not once per row, which would take hours for a large file with embedded audio."""
    read = []
    original = pyarrow.parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile, "iter_batches", lambda *a, **b: read.append(1) or original(*a, **b)
    )
    wrong = Data(questions).with_control(WRONG_AUDIO)
    read.clear()
    assert len(list(wrong._asked(range(ROWS)))) == ROWS and len(read) == 1


def test_the_wrong_clip_belongs_to_another_answer_if_a_shift_can_have_it(questions):
    data = Data(questions)
    for number, row in enumerate(data.rows):
        object.__setattr__(row, "references", ("x", "even" if number // 2 % 2 else "odd"))
    wrong = data.with_control(WRONG_AUDIO)
    assert all(data.rows[a].references != data.rows[b].references for a, b in wrong._heard.items())
    alone = [row for row in data.rows if row.row == 0]
    data.rows = alone * 2
    assert not data.with_control(WRONG_AUDIO)._heard  # there is no other clip


def test_what_is_refused(data, questions, answers, tmp_path, refused):
    texts = answers("some", ["B"] * ROWS)
    assert "have no controls. Name a model" in refused(
        texts, "--data", questions, "--controls", "--out", tmp_path / "out"
    )
    four = answers("four", ["B"] * 4)
    assert "no row of" in refused(four, "--data", data, "--controls", "--out", tmp_path / "out")
    assert "its rows have no choices" in refused(four, "--data", data, "--metrics", "choice", "--out", tmp_path / "out")
