"""Put the pieces of the series into a checkout, or into a copy of an installed package.

    python recipes/upstream/apply.py CHECKOUT [--only NAME]
    python recipes/upstream/apply.py --installed COPY [--only NAME]

CHECKOUT is a clone of verl, or of another repository for the pieces that go there (`TARGETS`). COPY is a folder that
contains a copy of the installed package; it has neither docs nor examples, so edits of those are left out. A piece is a
folder with ``files/``, which are new, and ``edits.txt``, which changes lines::

    <<<< verl/some/file.py
    the lines as they are, found exactly once
    ====
    the lines as they are to be
    >>>>

``<<<< verl/some/file.py unless TEXT`` is left out if the file already contains the text, which another request added.

All pieces are checked before the first file is written. If a piece does not fit, or a file cannot be written, the files
stay as they were. A piece that is already applied is skipped.
"""

import argparse
import contextlib
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIECES = {
    folder.name: folder
    for folder in sorted(HERE.glob("[0-9]*_*"), key=lambda each: (int(re.match(r"\d+", each.name)[0]), each.name))
}
NEEDS = dict.fromkeys(("2b_greedy_baseline", "2c_sum_pi_squared", "5_leaf"), "2_estimator_fields")
"""Pieces that need another one to be applied first."""
VERL = "verl/__init__.py"
TARGETS = {
    "6_recipe": "install_verl.sh",
    "11_vllm_lora_on_cpu": "vllm/__init__.py",
    "12_vllm_onednn_weights": "vllm/__init__.py",
}
"""For pieces that are not for verl: a file that only their repository has."""
EDIT = re.compile(
    r"^<<<< (?P<file>\S+)(?: unless (?P<unless>[^\n]+))?\n(?P<before>.*?)^====\n(?P<after>.+?)^>>>>\n",
    re.MULTILINE | re.DOTALL,
)


class ApplyError(ValueError):
    """A piece does not fit the files to which it is applied."""


@dataclass(frozen=True)
class Edit:
    """A change of one file.

    Attributes:
        file: path in the repository.
        before: the lines as they are; None for a file that is new.
        after: the lines as they are to be.
        source: the piece, and where in it the edit is.
        unless: text of a file that does not need the edit.
    """

    file: str
    before: str | None
    after: str
    source: str
    unless: str | None = None

    def is_needed(self, text: str | None) -> bool:
        """Return whether a file with this text needs the edit."""
        return self.unless is None or text is None or self.unless not in text


class Files:
    """The texts of files below a folder, changed in memory only.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self.texts: dict[str, str | None] = {}

    def on_disk(self, file: str) -> str | None:
        """Return the text of a file; None if there is none."""
        path = self.root / file
        return path.read_bytes().decode() if path.is_file() else None

    def __getitem__(self, file: str) -> str | None:
        if file not in self.texts:
            self.texts[file] = self.on_disk(file)
        return self.texts[file]


def target_of(piece: Path) -> str:
    """Return a file that tells the repository for which a piece is meant."""
    return TARGETS.get(piece.name, VERL)


def edits_of(piece: Path, installed: bool = False) -> list[Edit]:
    """Read the edits of a piece.

    Args:
        piece: folder of the piece.
        installed: leave out edits of files that a wheel does not have.

    Raises:
        ApplyError: something in ``edits.txt`` is outside of an edit.
    """
    path = piece / "edits.txt"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if rest := EDIT.sub("", text).strip():
        raise ApplyError(f"{path} has lines outside of an edit: {rest.splitlines()[0]!r}")
    found = []
    for edit in EDIT.finditer(text):
        line = text.count("\n", 0, edit.start()) + 1
        found.append(
            Edit(edit["file"], edit["before"], edit["after"], f"{piece.name}/edits.txt, line {line}", edit["unless"])
        )
    package = target_of(piece).partition("/")[0] + "/"
    found = [edit for edit in found if not installed or edit.file.startswith(package)]
    new = (path for path in sorted((piece / "files").rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    for path in new:
        file = path.relative_to(piece / "files").as_posix()
        found.append(Edit(file, None, path.read_text(encoding="utf-8"), f"{piece.name}/files/{file}"))
    return found


def apply(edits: list[Edit], files: Files) -> None:
    """Apply a piece, in memory.

    Raises:
        ApplyError: lines are not found exactly once, or a new file exists.
    """
    for edit in edits:
        text, path = files[edit.file], files.root / edit.file
        if edit.before is None:
            if text is not None or path.exists() and edit.file not in files.texts:
                raise ApplyError(f"{edit.source}: {path} already exists and differs")
            files.texts[edit.file] = edit.after
            continue
        if text is None:
            raise ApplyError(f"{edit.source}: {files.root} has no {edit.file}")
        if not edit.is_needed(text):
            continue
        if (found := text.count(edit.before)) != 1:
            first = edit.before.strip().splitlines()[0].strip()
            raise ApplyError(f"{edit.source}: {edit.file} has the lines at {first!r} {found} times, not once")
        files.texts[edit.file] = text.replace(edit.before, edit.after)


def undo(edits: list[Edit], files: Files) -> bool:
    """Take a piece out again, in memory; return False, and change nothing, if it is not there."""
    without: dict[str, str | None] = {}
    for edit in reversed(edits):
        text = without.get(edit.file, files[edit.file])
        if not edit.is_needed(text):
            continue
        if text is None or text.count(edit.after) != 1 or edit.before is None and text != edit.after:
            return False
        without[edit.file] = None if edit.before is None else text.replace(edit.after, edit.before)
    files.texts |= without
    return True


def apply_all(pieces: list[Path], root: Path, installed: bool = False) -> tuple[list[Path], Files]:
    """Apply pieces in memory, together with those that are there already.

    Args:
        pieces: folders of the pieces.
        root: folder of the checkout, or the one that contains the copy of the package.
        installed: leave out edits of files that a wheel does not have.

    Returns:
        The pieces that are there already, and the files.

    Raises:
        ApplyError: a piece does not fit, or lacks the piece that it needs.
    """
    files = Files(root)
    series = [piece for piece in PIECES.values() if target_of(piece) == target_of(pieces[0])]
    edits = {piece: edits_of(piece, installed) for piece in series}
    # From the last to the first, since a later piece may have changed lines of an earlier one.
    there = [piece for piece in reversed(series) if undo(edits[piece], files)]
    together = [piece for piece in series if piece in there or piece in pieces]
    for piece in together:
        if (needed := NEEDS.get(piece.name)) and PIECES[needed] not in together:
            raise ApplyError(f"{piece.name} needs {needed}, which is not in {root}. Apply that first, or all at once")
        apply(edits[piece], files)
    return there, files


def write(files: Files) -> None:
    """Write the files that have changed, or none of them.

    Raises:
        OSError: a file cannot be written.
    """
    folders: list[Path] = []
    new: dict[Path, Path] = {}
    old: dict[Path, bytes | None] = {}
    try:
        for file, text in files.texts.items():
            if text is None or text == files.on_disk(file):
                continue
            path = files.root / file
            for folder in reversed([each for each in path.parents if not each.exists()]):
                folder.mkdir()
                folders.append(folder)
            new[path] = path.with_name(f".{path.name}.new")
            new[path].write_bytes(text.encode())
            if path.exists():
                shutil.copymode(path, new[path])
        for path, written in new.items():
            before = path.read_bytes() if path.exists() else None
            written.replace(path)
            old[path] = before
    except BaseException:
        for path, before in old.items():
            path.unlink() if before is None else path.write_bytes(before)
        for written in new.values():
            with contextlib.suppress(OSError):
                written.unlink()
        for folder in reversed(folders):
            folder.rmdir()
        raise


def tests_of(root: Path, files: list[str]) -> list[str]:
    """Find the tests that need no GPU of what was changed.

    Args:
        root: folder of the checkout, or the one that contains the copy of the package, which has no tests of its own.
        files: what was changed or added.

    Returns:
        Those among the files, then verl's own that name one of the changed modules, by its import or its path.
    """
    names = []
    for file in files:
        if file.startswith("verl/") and file.endswith(".py"):
            *package, module = file.removesuffix(".py").removesuffix("/__init__").split("/")
            path = re.escape(".".join([*package, module])) + r"\b(?!\.)"
            names += [path, re.escape(file), rf"from {re.escape('.'.join(package))} import [^\n]*\b{module}\b"]
    own = [file for file in files if Path(file).name.startswith("test_")]
    others = sorted((root / "tests").rglob("*_on_cpu.py")) if names else []
    named = re.compile("|".join(names))
    found = [str(path.relative_to(root)) for path in others if named.search(path.read_text(encoding="utf-8"))]
    return own + [file for file in found if file not in own]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Put the pieces of the series into a repository.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "checkout", nargs="?", type=Path, metavar="CHECKOUT", help="a clone of verl, verl-recipe or vLLM"
    )
    where.add_argument("--installed", type=Path, metavar="COPY", help="folder with a copy of the installed package")
    parser.add_argument("--only", choices=PIECES, help="only this piece")
    given = parser.parse_args()
    root = given.installed or given.checkout
    pieces = [PIECES[given.only]] if given.only else list(PIECES.values())
    pieces = [piece for piece in pieces if (root / target_of(piece)).is_file()]
    if not pieces:
        wanted = target_of(PIECES[given.only]) if given.only else VERL
        sys.exit(f"{root} has no {wanted}, so the series is not for it. Name a clone or a copy that has it")
    installed = bool(given.installed)
    try:
        there, files = apply_all(pieces, root, installed)
        write(files)
    except (ApplyError, OSError) as error:
        sys.exit(f"{error}. Nothing was changed")
    touched: list[str] = []
    for piece in pieces:
        changed = dict.fromkeys(edit.file for edit in edits_of(piece, installed))
        touched += [file for file in changed if file not in touched]
        print(f"{piece.name}: {'skipped, already applied' if piece in there else f'{len(changed)} files'}")
    if tests := tests_of(root, touched):
        plugins = "VERL_USE_EXTERNAL_PLUGINS=none " if target_of(pieces[0]) == VERL else ""
        print(f"To test: cd {shlex.quote(str(root))} && {plugins}PYTHONPATH=$PWD pytest {' '.join(tests)}")


if __name__ == "__main__":
    main()
