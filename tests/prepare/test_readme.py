"""The commands of the room's README are commands of the program."""

import argparse
import shlex
from pathlib import Path

from verl_leaf import prepare

README = Path(prepare.__file__).with_name("README.md")


def test_the_commands_of_the_readme():
    parser = argparse.ArgumentParser(exit_on_error=False)
    prepare.add_arguments(parser)
    lines = [line.strip() for line in README.read_text().split("\n") if line.startswith("    verl-leaf prepare ")]
    parsed = [parser.parse_args(shlex.split(line)[2:]) for line in lines]
    assert {options.corpus for options in parsed} == set(prepare.CORPORA)
    assert f"above {parsed[0].shard_rows:,} rows" in README.read_text()
