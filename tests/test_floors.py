"""The floors of the house: imports run downwards, and the lowest rooms need little."""

import ast
import sys
from pathlib import Path

import pytest

from tests.helpers import PROJECT

# From the top down. A room may import those below it, and every room the two at the end.
FLOORS = [
    {"__main__", "cli", "doctor", "plugin"},
    {"credit"},
    {"evaluate"},
    {"judges", "show"},
    {"runs"},
    {"prepare"},
    {"patches"},
    {"checks"},
    {"rewards"},
    {"speech"},
    {"training"},
    {"data"},
    {"models"},
    {"config"},
    {"adapters"},
    {"algorithm"},
    {"common", "__init__"},
]
PACKAGE = PROJECT / "verl_leaf"


def imports_of(file: Path) -> set[str]:
    """What a file imports, inside functions too, each as a dotted name with what is taken of it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(name: str) -> str:
    """The room of a dotted name below the package."""
    return name.split(".")[0]


FILES = sorted(PACKAGE.rglob("*.py"))
HEIGHT = {room: -number for number, floor in enumerate(FLOORS) for room in floor}


def test_every_room_has_its_floor():
    rooms = {room_of(".".join(file.relative_to(PACKAGE).with_suffix("").parts)) for file in FILES}
    assert rooms == set(HEIGHT)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_import_runs_back_up(file):
    own = room_of(".".join(file.relative_to(PACKAGE).with_suffix("").parts))
    for name in imports_of(file):
        if not name.startswith("verl_leaf."):
            continue
        room = room_of(name.removeprefix("verl_leaf."))
        below = HEIGHT.get(room, HEIGHT["__init__"]) < HEIGHT[own]  # anything else belongs to the package itself
        same = room == own or HEIGHT.get(room) == HEIGHT[own]
        assert below or same, f"{own} imports {name}"


def test_the_adapters_stand_apart():
    """They serve other trainers than the rest of the house does: only the maths is common to both."""
    for file in FILES:
        ours = {".".join(name.split(".")[:2]) for name in imports_of(file) if name.startswith("verl_leaf.")}
        if (PACKAGE / "adapters") in file.parents:
            assert ours <= {"verl_leaf.adapters", "verl_leaf.algorithm"}, file
        else:
            assert "verl_leaf.adapters" not in ours, file


@pytest.mark.parametrize(
    "room, allowed",
    [
        ("algorithm", {"torch", "numpy"}),
        ("config", {"hydra", "omegaconf"}),
        ("adapters", {"torch", "accelerate", "openrlhf", "ray", "swift", "trl"}),
    ],
)
def test_what_the_lowest_rooms_need(room, allowed):
    for file in (PACKAGE / room).rglob("*.py"):
        foreign = {name.split(".")[0] for name in imports_of(file)} - set(sys.stdlib_module_names) - {"verl_leaf"}
        assert foreign <= allowed, f"{file} needs {foreign - allowed}"
