"""Helpers of all patches: hooks on modules, guards, a record, and ways to replace a function.

A patch is a module with ``HOOKS``: a dictionary from the name of each module that it patches to a function. The function is
called with the module right after the module is imported, and returns the status: ``active: why`` or ``not needed: why``.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import wrapt

Hook = Callable[[ModuleType], str]

SOLVED = "not needed: solved upstream"
TESTED_VERSIONS = "Install the tested versions, which `verl-leaf doctor` lists"

# (patch, module) -> "waiting: ...", "active: ...", "not needed: ..." or "broken: ...". A hook stays on a module as long as the
# process lives, whichever entry point attached it, so there is one record per process.
STATUS: dict[tuple[str, str], str] = {}


class PatchError(RuntimeError):
    """An error if a library is not as the patch expects."""


def attach(patch: ModuleType) -> None:
    """Let each hook of a patch run when its module is imported, or now if it is imported; once per process.

    Raises:
        PatchError: the package of a module is installed, but has no such module.
    """
    name = patch.__name__.rpartition(".")[2]
    for module, hook in patch.HOOKS.items():
        if (name, module) not in STATUS:
            STATUS[name, module] = "waiting: the module is not imported"
            if _has_moved(module):
                STATUS[name, module] = f"broken: {module} no longer exists"
                raise PatchError(f"{module} no longer exists. {TESTED_VERSIONS}")
            wrapt.when_imported(module)(_recorded(hook, name))


def _has_moved(module: str) -> bool:
    """Return whether an installed package lacks a module, so that its patch would wait for ever. Imports nothing."""
    package, *parts = module.split(".")
    spec = importlib.util.find_spec(package)
    if not parts or spec is None:
        return False
    files = [Path(folder, *parts) for folder in spec.submodule_search_locations or ()]
    return not any(file.with_suffix(".py").is_file() or (file / "__init__.py").is_file() for file in files)


def _recorded(hook: Hook, name: str) -> Callable[[ModuleType], None]:
    def run(module: ModuleType) -> None:
        try:
            STATUS[name, module.__name__] = hook(module)
        except PatchError as error:
            STATUS[name, module.__name__] = f"broken: {error}"
            raise

    return run


def expect(module: ModuleType, path: str, *parameters: str) -> Callable:
    """Return a function (``function`` or ``Class.method``) of a library if it is as the patch expects.

    If parameters are given, the function must have just these.

    Raises:
        PatchError: the function is missing or has other parameters, so the library has changed.
    """
    function = module
    for name in path.split("."):
        if not hasattr(function, name):
            raise PatchError(f"{module.__name__} no longer has {path}. {TESTED_VERSIONS}")
        function = getattr(function, name)
    actual = tuple(inspect.signature(function).parameters)
    if parameters and actual != parameters:
        raise PatchError(
            f"{module.__name__}.{path} has the parameters ({', '.join(actual)}), but the patch was written for "
            f"({', '.join(parameters)}). {TESTED_VERSIONS}"
        )
    return function


def expect_definition(function: Callable, module: str, patch: str) -> None:
    """Raise PatchError if a function has moved to another module: what imports it from there would not get the patched one."""
    if function.__module__ != module:
        raise PatchError(
            f"{function.__name__} is defined in {function.__module__} and no longer in {module}: put that module into HOOKS of "
            f"verl_leaf/patches/{patch}.py. {TESTED_VERSIONS}"
        )


def says(function: Callable, text: str) -> bool:
    """Return whether the source of a library's function contains a text, which shows that a patch is no longer needed."""
    return text in inspect.getsource(inspect.unwrap(function))


def rebind(original: Callable, replacement: Callable) -> None:
    """Put a replacement under every name by which verl's loaded modules refer to the original."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "verl" and vars(module).get(original.__name__) is original:
            setattr(module, original.__name__, replacement)


def extend(module: ModuleType, name: str, mixin: type, **attributes: Any) -> None:
    """Replace a class of a library by a subclass with the methods of a mixin before its own.

    Modules that import the class later get the subclass, and so do classes of the module that derive from it later. The
    subclass has the module and the name of the original, so that Ray sends it by reference.
    """
    original = vars(module)[name]
    described = {"__module__": module.__name__, "__doc__": original.__doc__, **attributes}
    setattr(module, name, type(original)(name, (mixin, original), described))


@contextmanager
def replaced(module: ModuleType, name: str, replacement: Callable) -> Iterator[None]:
    """Replace a function of a module during the block."""
    original = vars(module)[name]
    setattr(module, name, replacement)
    try:
        yield
    finally:
        setattr(module, name, original)
