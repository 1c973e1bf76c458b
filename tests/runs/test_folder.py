"""A run's folder: chosen, locked, and its answers taken over by the next."""

import os
import time

import pytest

from verl_leaf.runs.folder import RunFolder, choose_folder, reusable_validation


def begin(runs, number, command, finished=False):
    folder = RunFolder(runs / number)
    folder.path.mkdir(parents=True)
    folder.write_command(command)
    if finished:
        folder.summary.write_text("{}")
    return folder


def test_an_unfinished_run_goes_on_and_a_finished_one_is_left_alone(tmp_path):
    one, other = {"overrides": ["a=1"]}, {"overrides": ["a=2"]}
    assert choose_folder(tmp_path, one).path.name == "001"
    first = begin(tmp_path, "001", one)
    begin(tmp_path, "002", other)
    assert choose_folder(tmp_path, one) == first
    assert choose_folder(tmp_path, {"overrides": ["a=3"]}).path.name == "003"
    first.summary.write_text("{}")
    assert choose_folder(tmp_path, one).path.name == "003"


def test_two_runs_never_share_a_folder(tmp_path):
    folder = RunFolder(tmp_path)
    held = folder.lock()
    with pytest.raises(ValueError, match="a run is at work here"):
        folder.lock()
    held.close()
    folder.lock().close()


def test_the_answers_before_training_serve_again_while_nothing_has_changed(tmp_path):
    model, data = tmp_path / "model", tmp_path / "data"
    command = {"overrides": ["a=1"], "validation": str(data / "val.parquet")}
    answers = begin(tmp_path / "runs", "001", command).answers_of(0)
    for file, age in ((model / "weights", 20), (data / "val.parquet", 20), (answers, 10)):
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (time.time() - age, time.time() - age))
    os.utime(model, (time.time() - 20, time.time() - 20))
    new = RunFolder(tmp_path / "runs/002")
    assert reusable_validation(new, command, str(model), data / "val.parquet") == answers
    assert reusable_validation(new, {**command, "overrides": []}, str(model), data / "val.parquet") is None
    assert reusable_validation(new, command, "Qwen/Qwen2-Audio-7B", data / "val.parquet") is None
    os.utime(model / "weights")
    assert reusable_validation(new, command, str(model), data / "val.parquet") is None


def test_epochs_are_in_order_of_their_numbers(tmp_path):
    for name in ("epoch_10", "epoch_2", "epoch_1", "epoch_old"):
        (tmp_path / name).mkdir()
    assert [epoch.path.name for epoch in RunFolder(tmp_path).epochs()] == ["epoch_1", "epoch_2", "epoch_10"]
