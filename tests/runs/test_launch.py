"""What a start of a run says when it is stopped."""

import signal
import sys

import pytest
from rich.console import Console

from verl_leaf.runs.folder import LAST_CHECKPOINT, RunFolder
from verl_leaf.runs.launch import _Part, _Start
from verl_leaf.runs.watch import Watch


class Stopped(Watch):
    def until_it_ends(self, process):
        raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "last, what", [(None, "The same command begins again"), ("7", "continues after step 7, the last checkpoint")]
)
def test_a_stopped_run_promises_no_checkpoint_that_there_is_not(tmp_path, last, what):
    """As when it is stopped while its engines load."""
    folder, console = RunFolder(tmp_path), Console(width=1000)
    if last:
        folder.checkpoints.mkdir()
        (folder.checkpoints / LAST_CHECKPOINT).write_text(last)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with folder.lock() as lock, console.capture() as said:
        start = _Start(None, _Part(folder, None), None, None, lock, console)
        with pytest.raises(KeyboardInterrupt):
            start._watched(command, Stopped(folder, console), {})
    assert what in said.get()
