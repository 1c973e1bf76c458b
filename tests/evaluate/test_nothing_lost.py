"""Whatever ends a command, the same command then comes to the results of one that nothing has ended."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evaluate.conftest import REFERENCES
from tests.evaluate.test_judging import write_judge
from tests.helpers import PROJECT
from tests.helpers.judge_server import JudgeServer, Say
from verl_leaf.cli import main
from verl_leaf.runs.folder import RunFolder


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


def start(arguments: list[str], **others) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen([sys.executable, "-m", "verl_leaf", *arguments], env=environment, **others)


def test_killed_while_judging(command, tmp_path, capsys):
    with JudgeServer(grade) as server:
        assert main(command(server, "one_go")) == 0
        answered = len(server.requests)
        server.script = lambda body, n: Say(stall=60) if n >= answered + 3 else grade(body, n)
        process = start(command(server, "killed"))
        replies = tmp_path / "killed/judges/grader/grader.replies.jsonl"
        while not replies.exists() or replies.read_bytes().count(b"\n") < 3:  # of the first system's four
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=20)
        server.script, before = grade, len(server.requests)
        assert main(command(server, "killed")) == 0
        assert len(server.requests) == before + answered - 3, "what was replied is not asked again"
    assert contents(tmp_path / "killed") == contents(tmp_path / "one_go")
    summary = json.loads((tmp_path / "killed/summary.json").read_text())
    assert {line["system"] for line in summary["judges"]} == {"replies", "bad"}


def test_a_full_disk_is_a_line_and_costs_nothing(command, tmp_path, capsys):
    with JudgeServer(grade) as server:
        assert main(command(server, "one_go")) == 0
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # noqa: E731  (bytes of a file)
        process = start(command(server, "full"), stderr=subprocess.PIPE, text=True, preexec_fn=limit)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 2 and "File too large" in said.strip().split("\n")[-1] and "Traceback" not in said
        assert main(command(server, "full")) == 0
    assert contents(tmp_path / "full") == contents(tmp_path / "one_go")


def test_two_commands_on_one_folder(command, tmp_path, capsys):
    with JudgeServer(grade) as server:
        (tmp_path / "out").mkdir()
        with RunFolder(tmp_path / "out").lock():
            assert main(command(server, "out")) == 2
        assert "a run is at work here" in capsys.readouterr().err and not server.requests
        assert main(command(server, "out")) == 0


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
