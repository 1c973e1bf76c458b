"""What all patches are made of."""

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
        PatchError, match=r"library.Trainer.fit takes \(self, batch\), the patch was written for \(self\)"
    ):
        expect(module, "Trainer.fit", "self")
    with pytest.raises(PatchError, match="library has no Trainer.train any more"):
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
