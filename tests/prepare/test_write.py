"""The files that ``verl-leaf prepare`` writes: one schema, small row groups, the same bytes, nothing lost."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.helpers import corpora
from tests.helpers.corpora import prepare, rejected, report, rows
from verl_leaf.cli import main
from verl_leaf.common.files import lock_folder
from verl_leaf.prepare.convert import Settings, convert
from verl_leaf.prepare.corpus import Corpus, Item, Segment
from verl_leaf.prepare.report import histogram
from verl_leaf.prepare.tables import ParquetColumn


def digest(folder) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def lines(folder, count: int, audio="{}.wav", **more) -> list:
    """The arguments for a table of ``count`` rows."""
    table = [
        {"audio": audio.format(n), "question": f"{n}?", "answer": "x", "split": "train"} | more for n in range(count)
    ]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, table)))
    return ["manifest", folder / "mine.jsonl"]


def test_every_output_has_the_same_schema(tmp_path):
    """Whatever the corpus, embedded or not, with one answer or several: any two are one data set."""
    corpora.librisqa(tmp_path)
    corpora.dailytalk(tmp_path / "talk")
    corpora.write(tmp_path / "0.wav", corpora.tone(300, 0.2))
    calls = {
        "librisqa": ["librisqa", "--questions", tmp_path / "questions", "--audio", tmp_path],
        "dailytalk": ["dailytalk", "--questions", tmp_path / "talk/questions", "--audio", tmp_path / "talk/DailyTalk"],
        "one": lines(tmp_path, 1),
        "several": None,
    }
    files = []
    for name, call in calls.items():
        call = call or lines(tmp_path, 1, answer=["x", "y"])
        for embed in ([], ["--embed"]):
            out = tmp_path / "out" / (name + "".join(embed))
            assert prepare(*call, "--out", out, *embed) == 0
            files.append(out / "train.parquet")
    assert len({pyarrow.parquet.read_schema(file) for file in files}) == 1
    together = datasets.load_dataset(
        "parquet", data_files=[*map(str, files)], split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(together) == sum(len(pyarrow.parquet.read_table(file)) for file in files)
    assert {type(row["reward_model"]["ground_truth"]) for row in together} == {list}


def row_groups(file) -> list[int]:
    metadata = pyarrow.parquet.ParquetFile(file).metadata
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def test_row_groups_are_small(tmp_path):
    corpora.write(tmp_path / "0.wav", corpora.tone(300, 0.1))
    assert prepare(*lines(tmp_path, 300, "0.wav"), "--out", tmp_path / "many") == 0
    assert row_groups(tmp_path / "many/train.parquet") == [256, 44]
    half = np.zeros((16 * 2**20 - 44) // 2, np.float32)  # 16 MiB with its header
    for number, waveform in enumerate((half, half, half[:-1], np.append(half, [0, 0]), np.tile(half, 3))):
        corpora.write(tmp_path / f"{number}.wav", waveform)
    assert prepare(*lines(tmp_path, 5), "--out", tmp_path / "large", "--embed") == 0
    assert row_groups(tmp_path / "large/train.parquet") == [2, 1, 1, 1]  # 32 MiB, then none that fits


def test_audio_that_is_too_large_to_embed(tmp_path):
    file = tmp_path / "large.wav"
    corpora.write(file, corpora.tone(300, 0.1))
    settings = Settings(Corpus("x", ("<audio>{question}",)), None, True, str(tmp_path))
    for size, count, reason in (
        (2**30, 1, None),
        (2**30 + 1, 1, "is too large"),
        (2**29 + 1, 2, "is 1074 MB, too large"),
    ):
        os.truncate(file, size)
        item = Item("a", "train", ((Segment(str(file)),),) * count, ("x",), "What?")
        result = convert(settings, (0, item))
        if reason:
            assert f"{reason} to embed. Remove --embed, or cut the audio" in result.reason
        else:
            assert len(result["audios"][0]["bytes"]) == size


def test_a_column_is_read_in_any_order(tmp_path):
    values = [f"{number}".encode() for number in range(200)]
    file = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"other": values, "audio": values}), file, row_group_size=75)
    column = ParquetColumn(file, "audio")
    order = [0, 1, 17, 74, 75, 199, 3, 150, 149, 76, 75, 0, *range(200)]
    assert [column[row] for row in order] == [values[row] for row in order]


def test_a_column_that_is_damaged(tmp_path):
    """Its rows cannot be read, however often they are asked for; the others can."""
    values = [os.urandom(1000) for _ in range(60)]
    file = tmp_path / "x.parquet"
    table = pyarrow.table({"audio": values})
    pyarrow.parquet.write_table(table, file, row_group_size=20, compression="none", use_dictionary=False)
    content = bytearray(file.read_bytes())
    begin = content.index(values[20])
    content[begin - 4 : begin] = b"\xff" * 4  # the length of the value
    file.write_bytes(content)
    column = ParquetColumn(file, "audio")
    for _ in range(2):
        assert (column[19], column[40]) == (values[19], values[40])
        with pytest.raises(ValueError, match="cannot be read"):
            column[20]


def test_report(tmp_path, capsys):
    """At most ten reasons are shown, and their numbers add up all the same."""
    corpora.write(tmp_path / "0.wav", corpora.tone(300, 0.2))
    call = lines(tmp_path, 1)
    row = {"question": "a", "answer": "b"}
    more = [{**row, "audio": "0.wav", "split": split} for split in "abcdefghijkl"]
    more += [{**row, "audio": f"no{number}.wav", "split": "test"} for number in range(3)]
    with open(tmp_path / "mine.jsonl", "a") as file:
        file.writelines("\n" + json.dumps(entry) for entry in more)
    assert prepare(*call, "--out", tmp_path / "out") == 0
    content = report(tmp_path / "out")
    assert (content["rows_read"], content["rows_written"], content["rows_left_out"]) == (16, 1, 15)
    assert content["left_out"]["no such file"] == 3
    shown = capsys.readouterr().out
    assert "16 rows read, 1 written, 15 left out" in shown and "3 left out: no such file" in shown
    assert shown.count("left out: split '") == 9 and "3 left out for other reasons" in shown


def test_histogram():
    assert histogram([1, 1, 1, 1, 5.5, 10]) == "1 █    ▂   ▂ 10"


def test_no_row_is_left(tmp_path, capsys):
    assert prepare(*lines(tmp_path, 2), "--out", tmp_path / "out") == 2
    assert "no row is left of 2" in (shown := capsys.readouterr().err) and "mine.jsonl, line 1: " in shown
    assert len(rejected(tmp_path / "out")) == 2 and not list((tmp_path / "out").glob("*.partial"))


def test_files_of_another_kind_are_not_written_over(tmp_path, capsys):
    corpora.write(tmp_path / "0.wav", corpora.tone(300, 0.2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.DS_Store").touch()
    assert prepare(*lines(tmp_path, 1), "--out", tmp_path / "out") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.parquet").write_text("mine")
    assert prepare(*lines(tmp_path, 1), "--out", tmp_path / "mine") == 2
    assert "is not empty, and not from an earlier call" in capsys.readouterr().err
    assert (tmp_path / "mine/train.parquet").read_text() == "mine"


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
    assert "contains rows of another input or with other options" in capsys.readouterr().err


def test_a_file_is_written_again_if_it_is_gone_or_its_audio_has_changed(tmp_path):
    corpora.write(tmp_path / "0.wav", corpora.tone(300, 0.2))
    call = [*lines(tmp_path, 4), "--shard-rows", "2", "--workers", "1", "--out", tmp_path / "out"]
    assert prepare(*call) == 0 and len(rejected(tmp_path / "out")) == 3
    for number in (1, 2):
        corpora.write(tmp_path / f"{number}.wav", corpora.tone(300, 0.2))
    assert prepare(*call) == 0 and [*rejected(tmp_path / "out")] == ["3"]
    assert [row["extra_info"]["id"] for row in rows(tmp_path / "out", "train")] == ["0", "1", "2"]
    one, two = sorted((tmp_path / "out").glob("*.parquet"))
    before = one.stat().st_mtime_ns
    two.unlink()
    assert prepare(*call) == 0 and two.exists() and one.stat().st_mtime_ns == before
    (tmp_path / "2.wav").unlink()
    assert prepare(*call) == 0 and not two.exists() and report(tmp_path / "out")["rows_written"] == 2


def test_goes_on_where_it_was_killed(tmp_path):
    for number in range(40):
        corpora.write(tmp_path / f"{number}.wav", corpora.tone(300, 0.2))
    command = ["prepare", *map(str, lines(tmp_path, 40)), "--shard-rows", "2", "--workers", "1", "--out"]
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


def test_two_commands_never_write_one_folder(tmp_path, capsys):
    corpora.write(tmp_path / "0.wav", corpora.tone(300, 0.2))
    call = [*lines(tmp_path, 1), "--out", tmp_path / "out"]
    with lock_folder(tmp_path / "out/.prepare"):
        assert prepare(*call) == 2 and "is in use by another command" in capsys.readouterr().err
    assert prepare(*call) == 0
