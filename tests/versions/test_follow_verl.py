"""What `follow_verl.sh` prints, on the verl that is installed: everything fits and is still needed.

But what the series for verl mends, where that is in it (with_series.sh); what the patches then say must be the same.
"""

import importlib
import os
import subprocess
import sys

import pytest
import verl  # noqa: F401  (connects the plugin)

from tests.helpers import PROJECT
from tests.versions import follow_verl, verl_api
from verl_leaf.patches import PATCHES, STATUS


@pytest.mark.slow
def test_the_installed_verl_needs_all():
    for patch in PATCHES:
        for module in patch.HOOKS:
            importlib.import_module(module)
    solved = {f"patch {name}" for (name, _), status in STATUS.items() if "solved upstream" in status}
    command = [sys.executable, "-m", "tests.versions.follow_verl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT, env=dict(os.environ))
    head, *lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert head.startswith("verl ")
    found = {line[:32].strip(): line[33:].partition(":")[0] for line in lines}
    assert {name for name, verdict in found.items() if verdict == follow_verl.SOLVED} == solved, done.stdout
    assert all(found[name] == follow_verl.NEEDED for name in found.keys() - solved), done.stdout
    names = {name.split()[1] for name in found if name.startswith("patch ")}
    assert names == {patch.__name__.rpartition(".")[2] for patch in PATCHES}


@pytest.mark.parametrize("name", ["failed_prompts", "process_group", "speech_processor", "update_counts"])
def test_a_defect_that_is_mended_is_not_found(name):
    """In this process our patches have mended them, as verl might."""
    needed, why = follow_verl.verdict(getattr(follow_verl, name), lambda: None)
    assert (needed, why) == (follow_verl.SOLVED, "")


def test_a_library_that_is_not_as_expected_trips_the_guard(monkeypatch):
    from verl.trainer.ppo.v1 import replay_buffer

    monkeypatch.delattr(replay_buffer, "ReplayBuffer")
    for name in ("failed_prompts", "polling"):
        found, why = follow_verl.verdict(getattr(follow_verl, name), lambda: None)
        assert found == follow_verl.TRIPPED and "ReplayBuffer" in why


def test_what_a_class_of_ours_overrides_is_missed_where_it_is_gone(monkeypatch):
    from verl.utils.dataset.rl_dataset import RLHFDataset

    ours = "verl_leaf.speech.dataset:SpeechDataset"
    assert verl_api.complaints(ours) == []
    monkeypatch.setattr(RLHFDataset, "_read_files_and_tokenize", lambda self, file: None)
    assert verl_api.complaints(ours) == [
        f"{verl_api.EXTENDED[ours]}._read_files_and_tokenize: was (self), is (self, file)"
    ]
    monkeypatch.delattr(RLHFDataset, "_read_files_and_tokenize")
    assert verl_api.complaints(ours)[0].endswith("was (self), is gone")
