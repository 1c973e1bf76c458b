"""Copies of a library as another version might have it."""

import inspect
from types import ModuleType


def changed(module: ModuleType, path: str, drop: str | None = None) -> ModuleType:
    """Copy a module so that the function at ``path`` takes one more argument and no longer takes the argument ``drop``."""
    copy = ModuleType(module.__name__)
    vars(copy).update(vars(module))
    owner_name, _, name = path.rpartition(".")
    owner = copy
    if owner_name:
        owner = type(owner_name, (vars(copy)[owner_name],), {})
        setattr(copy, owner_name, owner)
    function = getattr(owner, name)

    def other(*args, **kwargs): ...

    signature = inspect.signature(function)
    more = inspect.Parameter("one_more", inspect.Parameter.KEYWORD_ONLY)
    left_out = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD or p.name == drop]
    kept = [p for p in signature.parameters.values() if p not in left_out]
    other.__signature__ = signature.replace(parameters=[*kept, more])
    setattr(owner, name, other)
    return copy


def without(module: ModuleType, *names: str) -> ModuleType:
    """Copy a module without some of its names."""
    copy = ModuleType(module.__name__)
    vars(copy).update({key: value for key, value in vars(module).items() if key not in names})
    return copy
