"""Checks of what the patches did in this process."""

import importlib

from verl_leaf.patches import STATUS
from verl_leaf.patches.base import SOLVED


def stands_down(name: str) -> bool:
    """Return whether a patch found, in all modules that it patches, that verl now does its work."""
    import verl  # noqa: F401  (connects the plugin)

    hooks = importlib.import_module(f"verl_leaf.patches.{name}").HOOKS
    for module in hooks:
        importlib.import_module(module)
    return all(STATUS[name, module].startswith(SOLVED) for module in hooks)
