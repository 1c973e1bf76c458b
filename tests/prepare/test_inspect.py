"""``verl-leaf data``: what is wrong with a file is said in a line, with the row and what to do."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from verl_leaf.cli import main
from verl_leaf.runs.swap import write_rows


@pytest.fixture
def rows(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000, np.float32), 16000)
    return [
        {
            "data_source": "test",
            "prompt": [{"role": "user", "content": "<audio>Translate into German."}],
            "audios": ["a.wav"],
            "reward_model": {"style": "rule", "ground_truth": "Ja doch"},
        }
        for _ in range(3)
    ]


@pytest.fixture
def data(tmp_path, capsys):
    """Exit status and both outputs of the command on rows."""

    def data(rows, *options, mixed=()):
        write_rows(rows, tmp_path / "rows.parquet", mixed)
        status = main(["data", str(tmp_path / "rows.parquet"), *options])
        said = capsys.readouterr()
        return status, said.out, said.err

    return data


def test_a_good_file(data, rows):
    status, out, _ = data([*rows, {**rows[0], "audios": None, "prompt": [{"role": "user", "content": "Hi"}]}])
    assert status == 0
    assert "rows.parquet: 4 rows" in out and "audios: list<element: string>" in out
    assert "row 0 [test] '<audio>Translate into German.' -> 'Ja doch'" in out
    assert "All 4 checked rows can be used" in out


def test_text_of_the_data_is_shown_and_not_obeyed(data, rows):
    evil = "\x1b[31m[red]x[/] :smile:\x07"
    rows[0] |= {"data_source": evil, "prompt": [{"role": "user", "content": f"<audio>{evil}"}]}
    status, out, _ = data(rows)
    shown = r"\x1b[31m[red]x[/] :smile:\x07"
    assert status == 0 and f"row 0 [{shown}] '<audio>{shown}'" in out and not {"\x1b", "\x07"} & {*out}


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("missing.parquet", None, "missing.parquet does not exist"),
        ("", None, "is not a file"),
        ("empty.parquet", b"", "is empty"),
        ("text.parquet", b"{}\n" * 100, "cannot be read as parquet"),
        ("wrong.jsonl", '{"text": "Grüße"}\n'.encode("cp1252"), "cannot be read as parquet"),
    ],
)
def test_what_is_no_parquet_file_is_one_line(tmp_path, capsys, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["data", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("verl-leaf data: ") and reason in said and "\n" not in said


def test_a_file_without_rows_or_columns(tmp_path, capsys):
    for table, reason in (
        (pyarrow.table({"data_source": pyarrow.array([], pyarrow.string())}), " contains no rows"),
        (
            pyarrow.table({"prompt": ["Hi"]}),
            ": there is no column 'data_source', 'reward_model'. The columns are prompt",
        ),
    ):
        pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
        assert main(["data", str(tmp_path / "rows.parquet")]) == 2
        assert f"rows.parquet{reason}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"audios": ["gone.wav"]}, "gone.wav: no such file"),
        ({"audios": None}, "the row has 0 audio(s)"),
        ({"audios": []}, "the row has 0 audio(s)"),
        ({"prompt": None}, "'prompt' is None"),
        ({"data_source": None}, "data_source is None"),
        ({"reward_model": None}, "reward_model contains no ground_truth"),
        ({"reward_model": {"style": "rule", "ground_truth": []}}, "the reference [] is not a text"),
        (
            {"reward_model": {"style": "rule", "ground_truth": {"target": "Ja"}}},
            "the reference {'target': 'Ja'} is not a text",
        ),
        (
            {"reward_model": {"style": "rule", "ground_truth": [["Ja"], ["Doch"]]}},
            "the reference [['Ja'], ['Doch']] is not",
        ),
        (
            {"reward_model": {"style": "rule", "ground_truth": 42.0}},
            "the reference 42.0 is not a text, a number with a single",
        ),
    ],
)
def test_a_bad_row_is_a_line_of_its_own(data, rows, tmp_path, change, reason):
    rows[1] |= change
    status, out, _ = data(rows, mixed=["reward_model"])
    assert status == 1
    [line] = [line for line in out.splitlines() if ", row 1: " in line]
    assert line.startswith(f"{tmp_path}/rows.parquet, row 1: ") and reason in line
    assert "1 of 3 rows cannot be used" in out


@pytest.mark.parametrize("ground_truth", [7, 0.5, ["Ja", 7], ""])
def test_references_that_are_taken(data, rows, ground_truth):
    for row in rows:
        row["reward_model"]["ground_truth"] = ground_truth
    assert data(rows, mixed=["reward_model"])[0] == 0


def test_clips_in_which_there_is_nothing_to_hear_are_named(data, rows, tmp_path):
    soundfile.write(tmp_path / "b.wav", 0.3 * np.sin(np.arange(16000) / 20), 16000)
    rows[1]["audios"] = ["b.wav"]
    status, out, _ = data(rows)
    assert status == 0 and "nothing can be heard" in out and "row 1: " not in out
    for row in (0, 2):
        assert f"rows.parquet, row {row}: {tmp_path}/a.wav: it is silent" in out
    assert "2 of 3 rows have a clip in which nothing can be heard. A run would use them" in out


def test_other_names_of_columns_with_the_model_and_without(data, rows, task):
    for row in rows:
        row["speech"], row["messages"] = row.pop("audios"), row.pop("prompt")
    names = ["--audio-key", "speech", "--prompt-key", "messages"]
    assert data(rows, *names)[0] == data(rows, *names, "--model", str(task / "model"))[0] == 0
    assert "data.prompt_key" in data(rows)[2]


def test_fast_looks_at_rows_all_over_the_file(data, rows):
    many = [rows[0]] * 1000
    many[990] = {**rows[0], "audios": ["gone.wav"]}
    status, out, _ = data(many, "--fast")
    assert status == 1 and "1 of 100 rows cannot be used" in out and "row 990: " in out


def test_many_bad_rows_are_counted_and_a_few_said(data, rows):
    status, out, _ = data([{**rows[0], "audios": ["gone.wav"]}] * 100)
    assert status == 1 and out.count("gone.wav: no such file") == 20 and "100 of 100 rows cannot be used" in out
