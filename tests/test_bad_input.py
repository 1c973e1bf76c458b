"""Whatever a command is given, bad input ends in one line that names it: no traceback, on any command."""

import argparse
import importlib

import pytest

from verl_leaf import cli
from verl_leaf.cli import main

# What a path may turn out to be; each is made in an empty folder.
BAD = ("missing", "folder", "empty.parquet", "text.parquet", "latin1.jsonl", "nulls.csv", "below_a_file/x.parquet")

# How each command takes a path, {bad} in its place, {ok} for folders that may be written.
COMMANDS = {
    "doctor": ["{bad}"],
    "train": ["--run", "{ok}/run", "--val", "{bad}", "--", "actor_rollout_ref.rollout.name=vllm"],
    "export": ["{bad}", "--out", "{ok}/out"],
    "merge": ["{bad}", "--out", "{ok}/out"],
    "voicebench": ["{bad}", "--data", "{bad}", "--out", "{ok}/out"],
    "prepare librisqa": ["--questions", "{bad}", "--audio", "{bad}", "--out", "{ok}/out"],
    "prepare covost2": ["--translations", "{bad}", "--audio", "{bad}", "--out", "{ok}/out"],
    "prepare dailytalk": ["--questions", "{bad}", "--audio", "{bad}", "--out", "{ok}/out"],
    "prepare parliament": ["--questions", "{bad}", "--europarl", "{bad}", "--out", "{ok}/out"],
    "prepare fillets": ["--game", "{bad}", "--out", "{ok}/out"],
    "prepare asterisk": ["--sounds", "{bad}", "--texts", "{bad}", "--out", "{ok}/out"],
    "prepare audioqa": ["{bad}", "--out", "{ok}/out"],
    "prepare voicebench": ["--data", "{bad}", "--out", "{ok}/out"],
    "prepare manifest": ["{bad}", "--out", "{ok}/out"],
    "data": ["{bad}"],
    "credit": ["--data", "{bad}", "--model", "{bad}", "--out", "{ok}/out"],
    "evaluate": ["x={bad}", "--data", "{bad}", "--out", "{ok}/out"],
    "tree": ["{bad}"],
    "forks": ["{bad}", "--out", "{ok}/forks"],
    "curves": ["{bad}", "--out", "{ok}/curves"],
}


@pytest.fixture
def bad(tmp_path):
    folder = tmp_path / "bad"
    (folder / "folder").mkdir(parents=True)
    (folder / "empty.parquet").touch()
    (folder / "text.parquet").write_text("this is not parquet")
    (folder / "latin1.jsonl").write_bytes('{"audio": "Müller.wav"}\n'.encode("latin-1"))
    (folder / "nulls.csv").write_bytes(b"audio,question,answer\n\0\0\0,\0,\0\n")
    (folder / "below_a_file").touch()
    return folder


def commands_of(commands: argparse.ArgumentParser, prefix: str = "") -> set[str]:
    """The names of all commands and of what is below them."""
    for action in commands._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {name for key, own in action.choices.items() for name in commands_of(own, f"{prefix}{key} ")}
    return {prefix.strip()}


def test_no_command_is_left_out():
    names = set()
    for name, (_, module) in cli.COMMANDS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(f"verl_leaf.{module}").add_arguments(parser)
        names |= commands_of(parser, f"{name} ")
    assert names == set(COMMANDS)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_input_is_one_line_that_names_it(command, name, bad, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    arguments = [word.format(bad=bad / name, ok=tmp_path) for word in COMMANDS[command]]
    status = main([*command.split(), *arguments])
    printed = capsys.readouterr()
    assert status in (1, 2)
    assert "Traceback" not in printed.out + printed.err
    said = printed.err if status == 2 else printed.out
    assert name.split("/")[0] in said or "out" in said
    if status == 2:
        lines = printed.err.strip().split("\n")
        assert lines[-1].startswith(f"verl-leaf {command.split()[0]}: ") and len(lines[-1]) < 1000
