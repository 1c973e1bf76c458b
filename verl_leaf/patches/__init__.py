"""Changes to libraries that no configuration, registry or subclass could replace, one file each.

README.md lists them and describes how to add one. ``STATUS`` records what was done in this process, for ``verl-leaf
doctor``.
"""

import importlib
import pkgutil

from verl_leaf.patches.base import STATUS, PatchError, attach

__all__ = ["PATCHES", "STATUS", "PatchError", "install"]

PATCHES = tuple(
    importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__) if file.name != "base"
)


def install() -> None:
    """Attach all patches; each takes effect when the module that it patches is imported."""
    for patch in PATCHES:
        attach(patch)
