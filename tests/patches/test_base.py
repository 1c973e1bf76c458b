"""What all patches are made of."""

import subprocess
import sys
from types import ModuleType

import pytest

from verl_leaf.patches.base import STATUS, PatchError, attach, expect, replaced


def library(**contents) -> ModuleType:
    module = ModuleType("library")
    vars(module).update(contents)
    return module


class Trainer:
    def fit(self, batch): ...


def test_a_changed_library_is_noticed():
    module = library(Trainer=Trainer)
    assert expect(module, "Trainer.fit", "self", "batch") is Trainer.fit
    assert expect(module, "Trainer.fit") is Trainer.fit
    with pytest.raises(
        PatchError,
        match=r"library.Trainer.fit has the parameters \(self, batch\), but the patch was written for \(self\)",
    ):
        expect(module, "Trainer.fit", "self")
    with pytest.raises(PatchError, match="library no longer has Trainer.train"):
        expect(module, "Trainer.train", "self")


def test_a_replacement_ends_with_the_block_even_in_an_error():
    module = library(compute=min)
    with pytest.raises(KeyError), replaced(module, "compute", max):  # noqa: PT012
        assert module.compute is max
        raise KeyError
    assert module.compute is min


def test_a_patch_is_attached_once():
    """A process may load both verl and vLLM, each of which loads the package."""
    calls = []
    patch = ModuleType("some.patch")
    patch.HOOKS = {"json": lambda module: calls.append(module.__name__) or "active: for the test"}
    attach(patch)
    attach(patch)
    assert calls == ["json"] and STATUS.pop(("patch", "json")) == "active: for the test"


def test_a_module_that_has_moved_stops_the_process():
    """Its patch would wait for ever, and nobody would hear of it."""
    patch = ModuleType("some.patch")
    patch.HOOKS = {"json.moved": lambda module: "active"}
    with pytest.raises(PatchError, match=r"json.moved no longer exists\. Install the tested versions"):
        attach(patch)
    assert STATUS.pop(("patch", "json.moved")) == "broken: json.moved no longer exists"
    patch.HOOKS = {"not_installed.module": lambda module: "active"}
    attach(patch)
    assert STATUS.pop(("patch", "not_installed.module")).startswith("waiting")


@pytest.mark.slow
def test_a_guard_that_trips_while_verl_loads_names_patch_and_remedy():
    """verl logs errors of plugins at DEBUG level: ours end the process."""
    code = (
        "import verl_leaf.patches.base as base\n"
        "base._has_moved = lambda module: module == 'verl.utils.model'\n"
        "import verl"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "verl-leaf could not connect to verl: verl.utils.model no longer exists" in done.stderr
    assert "Run `verl-leaf doctor` to see what to do" in done.stderr
