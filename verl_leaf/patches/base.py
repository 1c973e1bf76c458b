"""What every patch needs: hooks on the modules it patches, guards, a record, and ways to replace a function.

A patch is a module with ``HOOKS``: the name of each module that it patches, and a function that is called with that
module right after it is imported. It returns the status of the patch: ``active: why`` or ``not needed: why``.
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
TESTED_VERSIONS = "Install the tested versions: see `verl-leaf doctor`"

# (patch, module it patches) -> "waiting: ...", "active: ...", "not needed: ..." or "broken: ...". A hook stays on a module
# as long as the process lives, whichever of the two entry points attached it; so its record is one per process, too.
STATUS: dict[tuple[str, str], str] = {}


class PatchError(RuntimeError):
    """The library is not as the patch expects it."""


def attach(patch: ModuleType) -> None:
    """Let each hook of a patch run when its module is imported, or now where it is already; once per process.

    Raises:
        PatchError: the package that a module belongs to is installed, and has no such module.
    """
    name = patch.__name__.rpartition(".")[2]
    for module, hook in patch.HOOKS.items():
        if (name, module) not in STATUS:
            STATUS[name, module] = "waiting: the module is not imported"
            if _has_moved(module):
                STATUS[name, module] = f"broken: there is no {module} any more"
                raise PatchError(f"there is no {module} any more. {TESTED_VERSIONS}")
            wrapt.when_imported(module)(_recorded(hook, name))


def _has_moved(module: str) -> bool:
    """Whether an installed package lacks a module, so that its patch would wait for ever. Imports nothing."""
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
    """A function of a library, if it is as the patch was written for.

    Args:
        module: that holds it.
        path: its name there, as ``function`` or ``Class.method``.
        parameters: the names of all its parameters; any will do if none are given.

    Raises:
        PatchError: it is gone or takes other parameters, so the library has changed under the patch.
    """
    function = module
    for name in path.split("."):
        if not hasattr(function, name):
            raise PatchError(f"{module.__name__} has no {path} any more. {TESTED_VERSIONS}")
        function = getattr(function, name)
    found = tuple(inspect.signature(function).parameters)
    if parameters and found != parameters:
        raise PatchError(
            f"{module.__name__}.{path} takes ({', '.join(found)}), the patch was written for ({', '.join(parameters)}). "
            + TESTED_VERSIONS
        )
    return function


def expect_definition(function: Callable, module: str, patch: str) -> None:
    """Stop if a function has moved to another module: what imports it from there would not get the patched one.

    Args:
        function: of a library.
        module: that a patch hooks.
        patch: name of the patch.

    Raises:
        PatchError: the message says what to change in the patch.
    """
    if function.__module__ != module:
        raise PatchError(
            f"{function.__name__} is defined in {function.__module__} and no longer in {module}: put that module into HOOKS of "
            f"verl_leaf/patches/{patch}.py. {TESTED_VERSIONS}"
        )


def says(function: Callable, text: str) -> bool:
    """Whether the source of a library's function contains a text: by which a patch sees that it is no longer needed."""
    return text in inspect.getsource(inspect.unwrap(function))


def rebind(original: Callable, replacement: Callable) -> None:
    """Put a replacement under every name by which verl's loaded modules hold the original."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "verl" and vars(module).get(original.__name__) is original:
            setattr(module, original.__name__, replacement)


def extend(module: ModuleType, name: str, mixin: type, **attributes: Any) -> None:
    """Put a subclass in the place of a library's class, with the methods of a mixin before its own.

    Modules that import the class later get the subclass, and so do classes that derive from it there. It has the place and
    the name of the original, so that Ray sends it by reference.
    """
    original = vars(module)[name]
    described = {"__module__": module.__name__, "__doc__": original.__doc__, **attributes}
    setattr(module, name, type(original)(name, (mixin, original), described))


@contextmanager
def replaced(module: ModuleType, name: str, replacement: Callable) -> Iterator[None]:
    """A function of a module is another one for the time of the block."""
    original = vars(module)[name]
    setattr(module, name, replacement)
    try:
        yield
    finally:
        setattr(module, name, original)
