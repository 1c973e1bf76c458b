"""What a start of a run says when it is stopped."""

import io
import os
import signal
import sys
import threading
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from verl_leaf.common.files import lock_folder
from verl_leaf.runs import launch
from verl_leaf.runs import watch as watch_module
from verl_leaf.runs.command import Part
from verl_leaf.runs.folder import LAST_CHECKPOINT, RunFolder
from verl_leaf.runs.launch import _Start
from verl_leaf.runs.traces import trace_files
from verl_leaf.runs.watch import Watch
from verl_leaf.training.traces.schema import file_name


class Stopped(Watch):
    def until_it_ends(self, process):
        raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "last, what", [(None, "The same command starts again"), ("7", "continues after step 7, the last checkpoint")]
)
def test_a_stopped_run_promises_no_checkpoint_that_there_is_not(tmp_path, last, what):
    """The state of a run that was stopped while its engines loaded."""
    folder, console = RunFolder(tmp_path), Console(width=1000)
    if last:
        folder.checkpoints.mkdir()
        (folder.checkpoints / LAST_CHECKPOINT).write_text(last)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with lock_folder(folder.path) as lock, console.capture() as said:
        start = _Start(None, Part(folder, None), None, None, lock, console)
        with pytest.raises(KeyboardInterrupt):
            start._watched(command, Stopped(folder, console), {})
    assert what in said.get()


@pytest.mark.parametrize("signals, saved, last", [(1, "2", 3), (2, "2", 2), (1, None, 3)])
def test_a_run_that_is_told_to_stop_saves_first_unless_it_is_told_again(tmp_path, signals, saved, last):
    folder, console = RunFolder(tmp_path), Console(width=1000)
    tracker = folder.checkpoints / LAST_CHECKPOINT
    if saved:
        folder.checkpoints.mkdir()
        tracker.write_text(saved)
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(folder.stop)!r}).exists() or {signals} > 1: time.sleep(0.05)\n"
    command = [sys.executable, "-c", f"{wait}pathlib.Path({str(tracker)!r}).write_text('3')"]
    training = SimpleNamespace(config=OmegaConf.create({"trainer": {"use_v1": True, "save_freq": 100}}))
    watch = Watch(folder, console)
    folder.metrics.mkdir()
    # Written, but not yet looked at.
    (folder.metrics / "0.jsonl").write_text('{"step": 3, "data": {"timing_s/step": 1.0}}\n')
    for number in range(signals):
        threading.Timer(0.5 * (number + 1), os.kill, [os.getpid(), signal.SIGTERM]).start()
    with lock_folder(folder.path) as lock, console.capture() as said:
        start = _Start(training, Part(folder, None), None, None, lock, console)
        with pytest.raises(SystemExit) as ended:
            start._watched(command, watch, {})
    assert ended.value.code == 143 and not folder.stop.exists()
    assert f"continues after step {last}, the last checkpoint" in said.get()


RAYLET = (
    "(raylet) [2026-12-01 01:59:56,046 E 30166 30166] (raylet) node_manager.cc:3517: 4 Workers (tasks / actors) killed due to "
    "memory pressure (OOM), 0 Workers crashed due to other reasons at node (ID: ce39c069d308, IP: 192.0.2.2)"
)


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_run_that_hangs_because_ray_has_killed_workers_is_ended(tmp_path, monkeypatch, goes_on):
    monkeypatch.setattr(watch_module, "QUIET_SECONDS", 2)
    folder, console = RunFolder(tmp_path), Console(width=1000)
    prints = "print('step', flush=True)" if goes_on else "pass"
    code = f"import time; print({RAYLET!r}, flush=True)\nfor _ in range(10): time.sleep(0.5); {prints}"
    with lock_folder(folder.path) as lock, console.capture() as said:
        start = _Start(None, Part(folder, None), None, None, lock, console)
        command, watch = [sys.executable, "-c", code], Watch(folder, console)
        if goes_on:  # the workers were another run's, on the same cluster
            assert start._watched(command, watch, {}) == 0
        else:
            with pytest.raises(SystemExit, match="No output for .* since Ray killed workers"):
                start._watched(command, watch, {})
    assert "Ray has killed 4 workers" in said.get()


@pytest.mark.parametrize(
    ("step", "val_only", "left"), [(None, False, []), (20, False, [10, 20]), (None, True, [10, 20, 30])]
)
def test_no_tree_of_an_earlier_training_is_left(tmp_path, monkeypatch, step, val_only, left):
    """Steps after the checkpoint are made again, and the run may now end before the last of them."""
    folder, console = RunFolder(tmp_path), Console(file=io.StringIO())
    folder.traces.mkdir()
    for number in (10, 20, 30):
        (folder.traces / file_name(number)).touch()
    monkeypatch.setattr(launch, "validation_files", lambda *_: [])
    monkeypatch.setattr(launch, "verl_command", lambda *_, **__: [sys.executable, "-c", "raise SystemExit(1)"])
    config = OmegaConf.create({"trainer": {"val_only": val_only, "use_v1": True, "save_freq": 1}, "ray_kwargs": {}})
    training = SimpleNamespace(config=config, validation=None)
    checkpoint = None if step is None else folder.checkpoints / f"global_step_{step}"
    with lock_folder(folder.path) as lock:
        assert _Start(training, Part(folder, None), checkpoint, None, lock, console).run() == 1
    assert [*trace_files(folder.traces)] == left
