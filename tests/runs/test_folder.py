"""A run's folder: chosen and locked."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from verl_leaf.common.files import lock_folder
from verl_leaf.runs.folder import RunFolder, choose_folder


def begin(runs, number, command, finished=False):
    folder = RunFolder(runs / number)
    folder.path.mkdir(parents=True, exist_ok=True)
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
    assert choose_folder(tmp_path, {"overrides": ["a=3"]}, make=False).path.name == "003"
    first.summary.write_text("{}")
    assert choose_folder(tmp_path, one, make=False).path.name == "003"


def test_two_runs_never_share_a_folder(tmp_path):
    held = lock_folder(tmp_path)
    with pytest.raises(ValueError, match="is in use by another command"):
        lock_folder(tmp_path)
    held.close()
    lock_folder(tmp_path).close()


def test_runs_that_start_at_the_same_moment_get_folders_of_their_own(tmp_path):
    """Before any of them has written what it is told; and also after run 999."""
    (tmp_path / "998").mkdir()
    commands = [{"overrides": [f"data.seed={seed}"]} for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda command: choose_folder(tmp_path, command), commands))
    assert sorted(folder.path.name for folder in folders) == sorted(map(str, range(999, 1007)))
    assert all(folder.path.is_dir() for folder in folders)
    assert (
        choose_folder(tmp_path, {"overrides": []}, make=False).path.name == "1007" and not (tmp_path / "1007").exists()
    )


@pytest.mark.parametrize("content, what", [("{", "is not valid JSON"), ("[]", "is not a JSON object")])
def test_a_damaged_command_is_named(tmp_path, content, what):
    begin(tmp_path, "001", {}).command.write_text(content)
    with pytest.raises(ValueError, match=f"001/command.json {what}"):
        choose_folder(tmp_path, {"overrides": []})


def test_epochs_are_in_order_of_their_numbers(tmp_path):
    for name in ("epoch_10", "epoch_2", "epoch_1", "epoch_old"):
        (tmp_path / name).mkdir()
    assert [epoch.path.name for epoch in RunFolder(tmp_path).epochs()] == ["epoch_1", "epoch_2", "epoch_10"]
