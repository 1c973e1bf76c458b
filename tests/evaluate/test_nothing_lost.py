"""Whatever ends a command, the same command then comes to the results of one that nothing has ended."""

import ctypes
import itertools
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluate.conftest import REFERENCES
from tests.evaluate.test_judging import write_judge
from tests.helpers.judge_server import JudgeServer, Say
from verl_leaf.cli import main


def grade(body, _number) -> Say:
    return Say(str(len(body["messages"][0]["content"]) % 100))


def contents(out: Path) -> dict[str, bytes | list[bytes]]:
    """All results, replies in any order."""
    files = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert not [name for name in files if "partial" in name]
    return {name: sorted(text.split(b"\n")) if "replies" in name else text for name, text in files.items()}


@pytest.fixture
def command(data, answers, tmp_path):
    """The arguments of a command with a judge at an address."""

    def arguments(server, out) -> list[str]:
        judge = write_judge(tmp_path, server, concurrency=2)
        files = [
            answers("replies", REFERENCES),
            answers("bad", ["ein", "zwei", "drei", "vier"]),
        ]  # a system may have any name
        texts = [*files, "--data", data, "--out", tmp_path / out, "--metrics", "bleu", "--judge", judge]
        return ["evaluate", *map(str, texts)]

    return arguments


class Started:
    """The command in a process of its own, which does something else first. Its errors go to a pipe, which is never full."""

    def __init__(self, arguments: list[str], first: Callable[[], object] = lambda: None):
        errors, own = os.pipe()
        if not (process := os.fork()):
            sys.stdout, sys.stderr = open(os.devnull, "w"), os.fdopen(own, "w", buffering=1)
            status = 99
            try:
                first()
                status = main(arguments)
            finally:
                os._exit(status)
        os.close(own)
        self.process, self._errors = process, os.fdopen(errors)

    def ended(self) -> tuple[int, list[str]]:
        """Wait for it; its exit status, or minus the signal that killed it, and its lines of errors."""
        with self._errors as errors:
            lines = errors.read().strip().split("\n")
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]), lines


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_while_judging(command, tmp_path):
    with JudgeServer(grade) as server:
        assert main(command(server, "one_go")) == 0
        answered = len(server.requests)
        server.script = lambda body, n: Say(stall=60) if n >= answered + 3 else grade(body, n)
        started = Started(command(server, "killed"))
        replies = tmp_path / "killed/judges/grader/grader.replies.jsonl"
        while not replies.exists() or replies.read_bytes().count(b"\n") < 3:  # of the first system's four
            assert os.waitpid(started.process, os.WNOHANG) == (0, 0)
            time.sleep(0.02)
        os.kill(started.process, signal.SIGKILL)
        assert started.ended()[0] == -signal.SIGKILL
        server.script, before = grade, len(server.requests)
        assert main(command(server, "killed")) == 0
        assert len(server.requests) == before + answered - 3, "what was replied is not asked again"
    assert contents(tmp_path / "killed") == contents(tmp_path / "one_go")
    summary = json.loads((tmp_path / "killed/summary.json").read_text())
    assert {line["system"] for line in summary["judges"]} == {"replies", "bad"}


def test_killed_while_scoring_or_writing(command, tmp_path, monkeypatch):
    """Before each file that it finishes, from the first verdicts to the summary."""
    with JudgeServer(grade) as server:
        assert main(command(server, "one_go")) == 0
        scoring = lambda: monkeypatch.setattr("verl_leaf.evaluate.report._measured", die)  # noqa: E731
        assert Started(command(server, "killed"), scoring).ended()[0] == -signal.SIGKILL
        for files in range(20):

            def first(files=files):
                times, rename = itertools.count(), Path.replace
                monkeypatch.setattr(Path, "replace", lambda *own: die() if next(times) == files else rename(*own))

            if (status := Started(command(server, "killed"), first).ended()[0]) == 0:
                break
            assert status == -signal.SIGKILL
    assert files == 8 and contents(tmp_path / "killed") == contents(tmp_path / "one_go")


@pytest.mark.parametrize("most", [0, 500, 1500])  # bytes of a file: the lock's, some replies, the first results
def test_a_full_disk_is_a_line_and_costs_nothing(command, tmp_path, most):
    with JudgeServer(grade) as server:
        assert main(command(server, "one_go")) == 0
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # noqa: E731
        status, said = Started(command(server, "full"), limit).ended()
        assert status == 2 and "File too large" in said[-1] and "Traceback" not in " ".join(said)
        assert main(command(server, "full")) == 0
    assert contents(tmp_path / "full") == contents(tmp_path / "one_go")


def without_privileges() -> None:
    """Let permissions count for root, too."""
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None).capset(version_3, (ctypes.c_uint32 * 6)()) == 0


def test_a_read_only_folder_is_a_line_and_keeps_its_results(command, tmp_path):
    with JudgeServer(grade) as server:
        assert main(command(server, "out")) == 0
        before = contents(tmp_path / "out")
        for folder in ("out", "out/new"):
            (tmp_path / "out/lock").chmod(0o400)
            (tmp_path / "out").chmod(0o500)
            status, (line,) = Started(command(server, folder), without_privileges).ended()
            assert status == 2 and f"{tmp_path / folder} cannot be written to (Permission denied)" in line
            (tmp_path / "out").chmod(0o700)
    assert contents(tmp_path / "out") == before


def test_two_commands_on_one_folder(command, tmp_path):
    with JudgeServer(grade) as server:
        assert main(command(server, "one_go")) == 0
        server.script = lambda body, n: Say(str(len(body["messages"][0]["content"]) % 100), stall=0.5)
        found = [each.ended() for each in [Started(command(server, "out")), Started(command(server, "out"))]]
        assert sorted(status for status, _ in found) == [0, 2]
        assert any("is in use by another command" in said[-1] for _, said in found)
    assert contents(tmp_path / "out") == contents(tmp_path / "one_go")


def test_a_reader_of_the_tables_that_leaves_costs_no_file(data, answers, tmp_path):
    """This happens in ``verl-leaf evaluate ... | head -1``."""
    arguments = [*map(str, ("evaluate", answers("good", REFERENCES), "--data", data, "--metrics", "bleu", "--out"))]
    assert main([*arguments, str(tmp_path / "whole")]) == 0

    def leave():
        reading, writing = os.pipe()
        os.close(reading)
        sys.stdout = os.fdopen(writing, "w", buffering=1)

    Started([*arguments, str(tmp_path / "out")], leave).ended()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_judge_s_error_costs_no_other_table(command, tmp_path, capsys, monkeypatch):
    """Not even an error that nobody has thought of, nor a second judge's grades."""
    with JudgeServer(grade) as server, JudgeServer(lambda body, n: Say(status=404)) as other:
        arguments = command(server, "out")
        arguments.append(str(write_judge(tmp_path, other, name="gone")))
        assert main(arguments) == 2
        assert "judge gone" in capsys.readouterr().err
        summary = json.loads((tmp_path / "out/summary.json").read_text())
        assert {line["metric"] for line in summary["scores"]} == {"BLEU", "grader"}
        monkeypatch.setattr("verl_leaf.evaluate.judging.judge", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(command(server, "error"))
    assert "BLEU" in (tmp_path / "error/report.md").read_text()
