"""What every patch needs: a guard, a record and a way to replace a function everywhere it was imported to."""

import inspect
import sys
from collections.abc import Callable

STATUS: dict[str, str] = {}  # patch -> "active: why" or "not needed: why"


class PatchError(RuntimeError):
    """The library is not as the patch expects it."""


def expect_parameters(function: Callable, *names: str) -> None:
    """Stop unless a function takes exactly these parameters.

    Raises:
        PatchError: it takes others, so the library has changed under the patch.
    """
    found = tuple(inspect.signature(function).parameters)
    if found != names:
        raise PatchError(
            f"{function.__module__}.{function.__qualname__} takes ({', '.join(found)}), the patch was written for "
            f"({', '.join(names)}). Install the tested versions: see `verl-leaf doctor`"
        )


def rebind(original: Callable, replacement: Callable) -> None:
    """Put a replacement under every name by which veRL's loaded modules hold the original."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "verl" and vars(module).get(original.__name__) is original:
            setattr(module, original.__name__, replacement)
