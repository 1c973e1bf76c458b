"""The commands that the room's README shows are ones that the command line takes."""

import shlex

from tests.helpers import PROJECT
from verl_leaf.cli import parser


def test_commands_parse():
    lines = (PROJECT / "verl_leaf/show/README.md").read_text(encoding="utf-8").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("    verl-leaf ")]
    shown = {parser().parse_args(words).command for _, *words in commands}
    assert shown == {"tree", "forks", "curves"}
