"""Put the pieces of the series into a checkout of verl, or into a copy of an installed one.

    python recipes/upstream/apply.py CHECKOUT [--only NAME]
    python recipes/upstream/apply.py --installed COPY [--only NAME]

CHECKOUT is a clone of verl, or of verl-recipe for the piece that goes there. COPY is a folder that holds a copy of the
installed package ``verl``; it has neither docs nor examples, so that edits of those are left out. A piece is a folder
with ``files/``, which are new, and ``edits.txt``, which changes lines::

    <<<< verl/some/file.py
    the lines as they are, found exactly once
    ====
    the lines as they shall be
    >>>>

Where an anchor is not found exactly once, or a new file is there already, nothing of its piece is written.
"""

import argparse
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIECES = {folder.name: folder for folder in sorted(HERE.glob("[0-9]_*"))}
EDIT = re.compile(r"^<<<< (?P<file>\S+)\n(?P<anchor>.*?)^====\n(?P<replacement>.*?)^>>>>\n", re.MULTILINE | re.DOTALL)


class ApplyError(ValueError):
    """A piece does not fit what it shall be applied to."""


def target_of(piece: Path) -> str:
    """A file that tells the repository for which a piece is meant."""
    return "install_verl.sh" if piece.name.endswith("_recipe") else "verl/__init__.py"


def edits_of(piece: Path) -> list[tuple[str, str, str]]:
    """The edits of a piece: file, lines as they are, lines as they shall be.

    Raises:
        ApplyError: something in ``edits.txt`` is outside of an edit.
    """
    path = piece / "edits.txt"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    rest = EDIT.sub("", text).strip()
    if rest:
        raise ApplyError(f"{path} has lines outside of an edit: {rest.splitlines()[0]!r}")
    return [(edit["file"], edit["anchor"], edit["replacement"]) for edit in EDIT.finditer(text)]


def apply(piece: Path, root: Path, installed: bool = False) -> list[str]:
    """Apply a piece below a folder.

    Args:
        piece: folder of the piece.
        root: folder of the checkout, or the one that holds the copy of the package.
        installed: leave out edits of what a wheel does not have.

    Returns:
        The files that were changed or added, relative to ``root``.

    Raises:
        ApplyError: an anchor is not found exactly once, or a new file exists; nothing was written.
    """
    texts: dict[str, str] = {}
    for file, anchor, replacement in edits_of(piece):
        if installed and not file.startswith("verl/"):
            continue
        path = root / file
        if file not in texts:
            if not path.is_file():
                raise ApplyError(f"{piece.name}: {root} has no {file}")
            texts[file] = path.read_text(encoding="utf-8")
        found = texts[file].count(anchor)
        if found != 1:
            first = anchor.strip().splitlines()[0].strip()
            raise ApplyError(f"{piece.name}: {file} has the lines at {first!r} {found} times, not once")
        texts[file] = texts[file].replace(anchor, replacement)
    files = piece / "files"
    for path in sorted(path for path in files.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        file = str(path.relative_to(files))
        if (root / file).exists():
            raise ApplyError(f"{piece.name}: {root / file} exists already")
        texts[file] = path.read_text(encoding="utf-8")
    for file, text in texts.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text, encoding="utf-8")
    return list(texts)


def tests_of(root: Path, files: list[str]) -> list[str]:
    """Tests that need no GPU of what was changed.

    Args:
        root: folder of the checkout, or the one that holds the copy of the package (which brings no tests of its own).
        files: what was changed or added.

    Returns:
        Those among the files, then the checkout's that name one of the changed modules, by its import or its path.
    """
    names = []
    for file in files:
        if file.startswith("verl/") and file.endswith(".py"):
            *package, module = file.removesuffix(".py").removesuffix("/__init__").split("/")
            path = re.escape(".".join([*package, module])) + r"\b(?!\.)"
            names += [path, re.escape(file), rf"from {re.escape('.'.join(package))} import [^\n]*\b{module}\b"]
    own = [file for file in files if file.endswith("_on_cpu.py")]
    others = sorted((root / "tests").rglob("*_on_cpu.py")) if names else []
    named = re.compile("|".join(names))
    found = [str(path.relative_to(root)) for path in others if named.search(path.read_text(encoding="utf-8"))]
    return own + [file for file in found if file not in own]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Put the pieces of the series into verl.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("checkout", nargs="?", type=Path, metavar="CHECKOUT", help="a clone of verl or verl-recipe")
    where.add_argument(
        "--installed", type=Path, metavar="COPY", help="folder with a copy of the installed package verl"
    )
    parser.add_argument("--only", choices=PIECES, help="this piece alone")
    given = parser.parse_args()
    root = given.installed or given.checkout
    pieces = [PIECES[given.only]] if given.only else list(PIECES.values())
    pieces = [piece for piece in pieces if (root / target_of(piece)).is_file()]
    if not pieces:
        wanted = target_of(PIECES[given.only]) if given.only else "verl/__init__.py"
        sys.exit(f"{root} has no {wanted}: it is not what the series is for")
    files: list[str] = []
    try:
        for piece in pieces:
            changed = apply(piece, root, installed=bool(given.installed))
            files += [file for file in changed if file not in files]
            print(f"{piece.name}: {len(changed)} files")
    except (ApplyError, OSError) as error:
        sys.exit(str(error))
    if tests := tests_of(root, files):
        print(f"To test: cd {root} && PYTHONPATH=$PWD pytest {' '.join(tests)}")


if __name__ == "__main__":
    main()
