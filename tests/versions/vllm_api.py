"""What our code takes from vLLM, and how a vLLM source defines it.

    pip download --no-deps --dest wheels vllm==0.24.0
    unzip -q wheels/vllm-0.24.0-*.whl 'vllm/*.py' -d source
    python -m tests.versions.vllm_api source > tests/versions/vllm_0.24.0.json

Both are read from source; nothing of vLLM is imported.
"""

import ast
import functools
import json
import re
import sys
from collections.abc import Collection
from pathlib import Path

from packaging.requirements import Requirement

from tests.helpers import PROJECT
from verl_leaf.models import FAMILIES


def our_sources(version: str) -> list[str]:
    """Return the package's Python sources, except those of families that need a newer vLLM than ``version``."""
    newer = {
        name
        for name, family in FAMILIES.items()
        for need in map(Requirement, family.needs)
        if need.name == "vllm" and not need.specifier.contains(version, prereleases=True)
    }
    files = sorted(PROJECT.glob("verl_leaf/**/*.py"))
    return [file.read_text() for file in files if not newer & set(file.parts)]


def our_uses(*sources: str) -> tuple[dict[str, list], dict[str, str | None], dict[str, list]]:
    """What Python sources take from vLLM.

    Names with their calls (number of positional arguments, keywords); members that our subclasses and their mixins define, with
    their parameters; vLLM's base classes of each subclass, which goes by the name of the first.
    """
    names, members, bases = {}, {}, {}
    trees = [ast.parse(source) for source in sources]
    scopes = [_imported(tree) for tree in trees]
    for tree, scope in zip(trees, scopes, strict=True):
        _take(tree, scope, set(), names)
    classes = [
        (node, scope)
        for tree, scope in zip(trees, scopes, strict=True)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    mixins = {node.name: (node, scope) for node, scope in classes if not _vllms(node, scope)}
    for node, scope in classes:
        if vllm := _vllms(node, scope):
            bases[vllm[0]] = vllm
            parts = [mixins[name] for base in node.bases if (name := ast.unparse(base)) in mixins] + [(node, scope)]
            own = {name: _parameters(line) for part, _ in parts for line in part.body for name in _defined(line)}
            members |= {f"{vllm[0]}.{name}": parameters for name, parameters in own.items()}
            for part, around in parts:
                _take(part, around | {"self": vllm[0], "super": vllm[0]}, own.keys(), names)
    return names, members, bases


def _imported(tree: ast.Module) -> dict[str, str]:
    """The names that a source imports from vLLM."""
    scope = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            scope |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            aliases = [alias for alias in node.names if alias.name.split(".")[0] == "vllm"]
            scope |= {alias.asname or "vllm": alias.name if alias.asname else "vllm" for alias in aliases}
    return scope


def _vllms(node: ast.ClassDef, scope: dict[str, str]) -> list[str]:
    """The base classes of a class that are vLLM's."""
    return [name for base in node.bases if (name := _dotted(base, scope))]


def _take(tree: ast.AST, scope: dict[str, str], own: Collection[str], names: dict[str, list]) -> None:
    """Add to ``names`` what a part of a source takes from vLLM; in a class, ``own`` are the members that we define."""
    for name in scope.values():
        names.setdefault(name, [])
    for node in ast.walk(tree):
        ours = isinstance(node, ast.Attribute) and _is_name(node.value, "self") and node.attr in own
        if isinstance(node, ast.Attribute) and not ours and (name := _dotted(node, scope)):
            names.setdefault(name, [])
        if isinstance(node, ast.Call) and not _is_name(node.func, "super") and (name := _dotted(node.func, scope)):
            call = (len(node.args), [keyword.arg for keyword in node.keywords if keyword.arg])
            if call not in names.setdefault(name, []):
                names[name].append(call)
            # the strings that a model class hands over by keyword name its parts: "language_model.lm_head."
            for value in (keyword.value for keyword in node.keywords if "self" in scope):
                for part in value.values if isinstance(value, ast.Dict) else [value]:
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        names.setdefault(f"{scope['self']}.{part.value.split('.')[0]}", [])


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _dotted(node: ast.AST, scope: dict[str, str]) -> str | None:
    """``base.Class`` or ``Class(...).method`` as a name of vLLM, None for anything else."""
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Call):
        name = _dotted(node.func, scope)
        return name if name and name.split(".")[-1][0].isupper() else None
    if isinstance(node, ast.Attribute) and not _is_name(getattr(node.value, "value", None), "self"):
        name = _dotted(node.value, scope)
        return name and f"{name}.{node.attr}"
    return None


def _defined(node: ast.AST) -> list[str]:
    """Names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _parameters(node: ast.AST) -> str | None:
    """The parameters of a method without ``self`` or ``cls``, every default shown as None: ``weights, *, mapper=None``."""
    if not isinstance(node, ast.FunctionDef):
        return None
    args, optional = node.args, len(node.args.args) - len(node.args.defaults)
    words = [
        arg.arg + "=None" * (index >= optional) for index, arg in enumerate(args.args) if arg.arg not in ("self", "cls")
    ]
    words += [f"*{args.vararg.arg if args.vararg else ''}"] if args.vararg or args.kwonlyargs else []
    words += [arg.arg + "=None" * bool(default) for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return ", ".join([*words, f"**{args.kwarg.arg}"] if args.kwarg else words)


class Source:
    """A folder that holds ``vllm/``."""

    def __init__(self, root: Path):
        self.root = root

    def api(self, names, members, bases) -> dict[str, str | None]:
        """How this source defines what our code uses: parameters, base classes, None. What it lacks is left out."""
        found = {name: definition for name in {**names, **members} if (definition := self.find(name))}
        called = {name for name in names if names[name]} | members.keys()
        api = {name: self.callable(*node) if name in called else None for name, node in found.items()}
        lora = "".join(file.read_text() for file in self.root.glob("vllm/lora/*_manager.py"))
        for name in members.keys() - api.keys():
            owner, member = name.rsplit(".", 1)
            if any(self.find(f"{base}.{member}") for base in bases[owner]):
                api[name] = None
            # what no base class defines, the LoRA manager must ask for by name
            elif re.search(rf"\b{member}\b", lora):
                api[name] = "read by the LoRA manager"
        for owner in bases.keys() & api.keys():
            api[owner] = "class with the bases " + ", ".join(map(ast.unparse, found[owner][1].bases))
        return dict(sorted(api.items()))

    @functools.cache  # noqa: B019
    def module(self, name: str) -> ast.Module | None:
        path = self.root.joinpath(*name.split("."))
        file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
        return file and ast.parse(file.read_text())

    def find(self, name: str) -> tuple[str, ast.AST] | None:
        """The module that defines a dotted name, and the definition; an instance counts as its class."""
        if module := self.module(name):
            return name, module
        owner, _, last = name.rpartition(".")
        found = owner and self.find(owner)
        if not found:
            return None
        return self.member(*found, last) if isinstance(found[1], ast.ClassDef) else self.lookup(found[0], last)

    def lookup(self, module: str, name: str) -> tuple[str, ast.AST] | None:
        for node in ast.walk(self.module(module)):
            if name in _defined(node):
                cls = getattr(node, "annotation", None) or getattr(node, "value", None)
                cls = cls.func if isinstance(cls, ast.Call) else cls
                return (isinstance(cls, ast.Name) and self.lookup(module, cls.id)) or (module, node)
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                if name == (alias.asname or alias.name):
                    is_package = (self.root / module.replace(".", "/") / "__init__.py").is_file()
                    above = [*module.split("."), "__init__"][: -node.level - (not is_package)] if node.level else []
                    return self.find(".".join([*above, *filter(None, [node.module]), alias.name]))
        return None

    def member(self, module: str, cls: ast.ClassDef, name: str) -> tuple[str, ast.AST] | None:
        for node in ast.walk(cls):
            if node in cls.body and name in _defined(node):
                return module, node
            if isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Store):
                return module, node  # self.name = ...
        for base in cls.bases:
            found = self.lookup(module, ast.unparse(base).split("[")[0])
            if found and isinstance(found[1], ast.ClassDef) and (inherited := self.member(*found, name)):
                return inherited
        return None

    def callable(self, module: str, node: ast.AST) -> str | None:
        if not isinstance(node, ast.ClassDef):
            return _parameters(node)
        if init := self.member(module, node, "__init__"):
            return _parameters(init[1])
        fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]  # of a dataclass
        return ", ".join(field.target.id + ("=None" if field.value else "") for field in fields)


if __name__ == "__main__":
    print(json.dumps(Source(Path(sys.argv[1])).api(*our_uses(*our_sources("0.24.0"))), indent=1))
