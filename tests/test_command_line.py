"""The command line answers at once, and prints no control characters."""

import subprocess
import sys

import pytest

from verl_leaf import __version__
from verl_leaf.cli import COMMANDS, main
from verl_leaf.evaluate.forks_command import REWARDS
from verl_leaf.models import FAMILIES as DECLARED
from verl_leaf.rewards.metrics import METRICS
from verl_leaf.show.train_command import FAMILIES

HEAVY = {"torch", "transformers", "verl", "datasets", "matplotlib", "nltk", "scipy"}


@pytest.mark.parametrize(
    "words", ["--help", "--version", "train", "evaluate --nonsense", *(f"{command} --help" for command in COMMANDS)]
)
def test_help_and_wrong_arguments_import_nothing_heavy(words):
    command = [sys.executable, "-X", "importtime", "-m", "verl_leaf", *words.split()]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()
    modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "verl_leaf.cli" in modules
    assert not HEAVY & modules


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"verl-leaf {__version__}\n")


def test_doctor_says_its_version_before_anything_heavy_is_imported():
    code = f"import sys; sys.modules |= dict.fromkeys({HEAVY}); from verl_leaf.cli import main; main(['doctor'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, f"verl-leaf {__version__}\n")


def test_the_families_are_those_declared():
    assert set(FAMILIES) == set(DECLARED)


def test_the_rewards_are_all_that_need_no_options():
    assert (*METRICS, "choice") == REWARDS


def test_an_error_shows_control_characters(tmp_path, capsys):
    assert main(["data", str(tmp_path / "a\x1b[31m\x9b.parquet")]) == 2
    error = capsys.readouterr().err
    assert r"a\x1b[31m\x9b.parquet" in error
    assert not {"\x1b", "\x9b"} & set(error)
