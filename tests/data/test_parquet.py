"""Parquet files as other programs write them."""

import datetime
import multiprocessing
import os
import signal
import time

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from examples.spoken_german.tiny_model import build_processor
from verl_leaf.data.parquet import BATCH_ROWS, RowFile

ROWS = [
    {
        "data_source": "test",
        "prompt": [{"role": "user", "content": f"<audio>Question {number}"}],
        "audios": [f"{number}.wav"],
        "reward_model": {"style": "rule", "ground_truth": f"Antwort {number}"},
        "note": None,
    }
    for number in range(5)
]


def read(file, **how):
    return [row for _, row in RowFile(file).rows(**how)]


def retyped(type, text, array):
    """A type with other types of text and lists in it."""
    if pyarrow.types.is_struct(type):
        return pyarrow.struct([(field.name, retyped(field.type, text, array)) for field in type])
    if pyarrow.types.is_list(type):
        return array(retyped(type.value_type, text, array))
    return text if pyarrow.types.is_string(type) else type


@pytest.mark.parametrize(
    "text, array",
    [
        (pyarrow.large_string(), pyarrow.large_list),
        (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.list_),
        (pyarrow.string(), pyarrow.list_view),
        (pyarrow.large_string(), pyarrow.large_list_view),
    ],
)
def test_whatever_the_types_of_text_and_lists(tmp_path, text, array):
    plain = pyarrow.Table.from_pylist(ROWS).schema
    schema = pyarrow.schema([(field.name, retyped(field.type, text, array)) for field in plain])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS, schema), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == ROWS


def test_views_of_text(tmp_path):
    table = pyarrow.table(
        {"text": pyarrow.array(["Ja", None, "a text of more than twelve bytes"], pyarrow.string_view())}
    )
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == table.to_pylist()


def test_pandas_with_categories_and_an_index(tmp_path):
    frame = pandas.DataFrame(ROWS).set_index("audios", drop=False)
    frame["data_source"] = frame["data_source"].astype("category")
    frame.to_parquet(tmp_path / "rows.parquet")
    rows = read(tmp_path / "rows.parquet", columns=list(ROWS[0]))
    assert rows == ROWS


def test_values_of_several_types_are_json_to_datasets_and_come_as_they_were(tmp_path):
    truths = ["Ja", ["Ja", "Doch"], 7, None]
    rows = [{**row, "reward_model": {"ground_truth": truth}} for row, truth in zip(ROWS, truths, strict=False)]
    datasets.Dataset.from_list(rows, on_mixed_types="use_json").to_parquet(str(tmp_path / "rows.parquet"))
    file = RowFile(tmp_path / "rows.parquet")
    assert file.mixed == ["reward_model"]
    assert [row["reward_model"]["ground_truth"] for _, row in file.rows()] == truths


@pytest.mark.parametrize(
    "name", ["[x]/rows.parquet", "set?/rows.parquet", "*/rows.parquet", "a=b, {c} ü#'/rows.parquet"]
)
def test_a_path_is_a_path(tmp_path, name):
    for folder, value in (("x", 1), ("set1", 2), (name, 3)):
        file = tmp_path / folder if folder == name else tmp_path / folder / "rows.parquet"
        file.parent.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"value": [value]}), file)
    assert read(tmp_path / name) == [{"value": 3}]


@pytest.mark.parametrize("group", [1, 100, 10**6])
def test_chosen_rows_of_any_layout(tmp_path, group):
    count = 3 * BATCH_ROWS + 5
    table = pyarrow.table({"number": range(count), "bytes": [bytes(100)] * count})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=group)
    file = RowFile(tmp_path / "rows.parquet")
    assert len(file) == count
    for chosen in (range(0, count, 7), [0], [count - 1], np.array([3, BATCH_ROWS - 1, BATCH_ROWS, 300]), []):
        rows = list(file.rows(chosen, ["number"]))
        assert [number for number, _ in rows] == list(chosen)
        assert all(row == {"number": number} for number, row in rows)


def test_no_file_is_left_open(tmp_path):
    """A run may have thousands of shards."""
    pyarrow.parquet.write_table(pyarrow.table({"number": range(3)}), tmp_path / "rows.parquet")
    before = os.listdir("/proc/self/fd")
    files = [RowFile(tmp_path / "rows.parquet") for _ in range(20)]
    assert [len(list(file.rows())) for file in files] == [3] * 20
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_no_more_than_a_few_megabytes_of_audio_are_held(tmp_path):
    """One row group of 256 MB. Of more than 2 GiB, which pandas writes too, Arrow could not hold the column at all."""
    clip, memory = bytes(2**20), pyarrow.default_memory_pool()
    table = pyarrow.table({"audios": [[{"bytes": clip, "path": None}]] * 256})
    pyarrow.parquet.write_table(
        table, tmp_path / "rows.parquet", compression="NONE", use_dictionary=False, write_batch_size=8
    )
    del table
    before, most = memory.bytes_allocated(), 0
    for _, row in RowFile(tmp_path / "rows.parquet").rows():
        assert row["audios"][0]["bytes"] == clip
        most = max(most, memory.bytes_allocated() - before)
    assert most < 100 * 2**20


@pytest.mark.parametrize("count", [1, 127, 3000])
def test_rows_are_worked_on_in_processes_and_come_in_order(tmp_path, count):
    class OddError(ValueError):
        """Cannot be pickled, as errors of some libraries."""

    def half(row):
        if row["number"] % 2:
            raise OddError("odd")
        row["half"] = row["number"] // 2
        return row["half"]

    pyarrow.parquet.write_table(pyarrow.table({"number": range(count)}), tmp_path / "rows.parquet")
    results = list(RowFile(tmp_path / "rows.parquet").map(half, "Halving"))
    assert [number for number, _, _ in results] == list(range(count))
    assert all(str(result) == "odd" for number, _, result in results if number % 2)
    assert all(result == row["half"] == number // 2 for number, row, result in results if number % 2 == 0)


def test_all_cores_work_on_rows(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"number": range(3000)}), tmp_path / "rows.parquet")

    def process(row):
        time.sleep(0.0001)  # leaves the other processes something to do
        return os.getpid()

    workers = {worker for _, _, worker in RowFile(tmp_path / "rows.parquet").map(process, "Counting")}
    assert len(workers) == min(len(os.sched_getaffinity(0)), 24)


def test_a_killed_process_is_an_error_that_names_the_file(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"number": range(3000)}), tmp_path / "rows.parquet")

    def die(row):
        if row["number"] == 700 and multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ValueError, match=r"rows\.parquet: a process that reads its rows has been killed"):
        list(RowFile(tmp_path / "rows.parquet").map(die, "Dying"))


def test_tokenizers_with_threads_do_not_hang_in_forked_processes(tmp_path, monkeypatch):
    """verl sets the variable for the processes of a run (verl/trainer/constants_ppo.py)."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    tokenizer = build_processor().tokenizer
    tokenizer(["eins zwei drei"] * 1000)  # starts its threads in this process
    pyarrow.parquet.write_table(pyarrow.table({"text": ["vier"] * 1000}), tmp_path / "rows.parquet")
    rows = RowFile(tmp_path / "rows.parquet").map(
        lambda row: len(tokenizer([row["text"]] * 50)["input_ids"]), "Reading"
    )
    assert {result for _, _, result in rows} == {50}


def files_that_are_none(folder):
    whole = folder / "whole.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["Ja"] * 5000}), whole)
    data = whole.read_bytes()
    (folder / "folder.parquet").mkdir()
    (folder / "empty.parquet").write_bytes(b"")
    (folder / "text.parquet").write_text("no parquet")
    (folder / "cut.parquet").write_bytes(data[: len(data) // 2])
    pyarrow.parquet.write_table(
        pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), folder / "rowless.parquet"
    )
    twice = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], ["text", "text"])
    pyarrow.parquet.write_table(twice, folder / "twice.parquet")
    return {
        "missing.parquet": "does not exist",
        "folder.parquet": "is not a file",
        "empty.parquet": "is empty",
        "text.parquet": "cannot be read as parquet",
        "cut.parquet": "cannot be read as parquet",
        "rowless.parquet": "contains no rows",
        "twice.parquet": "has more than one column 'text'",
    }


def test_what_is_no_file_of_rows_is_named(tmp_path):
    for name, reason in files_that_are_none(tmp_path).items():
        with pytest.raises(ValueError, match=f"{name}:? {reason}") as error:
            RowFile(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_row_that_cannot_be_read_is_named(tmp_path):
    text = pyarrow.array([b"Ja", b"\xff\xfe", b"Doch"]).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="rows.parquet, row 1, column 'text' cannot be read .*utf-8"):
        read(tmp_path / "rows.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"x": pyarrow.array(["{"], pyarrow.json_())}), tmp_path / "json.parquet")
    with pytest.raises(ValueError, match="json.parquet, row 0, column 'x' cannot be read"):
        read(tmp_path / "json.parquet")


def test_damage_that_its_checksum_tells(tmp_path):
    file = tmp_path / "rows.parquet"
    table = pyarrow.table({"text": ["a" * 50 + str(number) for number in range(1000)]})
    pyarrow.parquet.write_table(table, file, compression="NONE", use_dictionary=False, write_page_checksum=True)
    data = bytearray(file.read_bytes())
    data[20000] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="rows.parquet: rows from 0 on cannot be read .*CRC"):
        read(file)


def test_other_types_come_as_python_has_them(tmp_path):
    when = datetime.datetime(2026, 1, 2, 3, 4, 5)
    table = pyarrow.table(
        {
            "when": [when],
            "bytes": [b"\0"],
            "map": pyarrow.array([[("a", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [{"when": when, "bytes": b"\0", "map": [("a", 1)]}]
