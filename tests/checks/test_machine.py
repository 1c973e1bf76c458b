"""What is wrong with a machine is named in one line, with the setting that mends it."""

import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
from filelock import FileLock

from tests.helpers import PROJECT
from verl_leaf.checks import machine
from verl_leaf.checks.machine import check_machine, machine_problems

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def healthy(monkeypatch, tmp_path):
    """A machine with nothing wrong, whatever the one is on which the tests run."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for setting in (*(setting for setting, *_ in machine.CACHES[1:]), "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(setting, str(tmp_path))
    monkeypatch.setattr(machine, "LEAST_FREE", 0.0)
    monkeypatch.setattr(machine, "LEAST_SHARED", 0.0)
    check_machine(str(tmp_path / "not/yet"))


def test_a_cache_folder_that_is_no_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file/cache"))
    expected = (
        f"cache folder of Triton's kernels: {tmp_path}/file/cache cannot be written to .* Set TRITON_CACHE_DIR to"
    )
    with pytest.raises(ValueError, match=expected):
        check_machine(str(tmp_path))


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "LEAST_FREE", shutil.disk_usage(tmp_path).free / 2**30 + 1)
    with pytest.raises(
        ValueError, match=r"cache folder of rows: .* is on a disk with .* GiB free. Set data.cache_dir to"
    ):
        check_machine(str(tmp_path))


def test_shared_memory_of_a_container_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(machine, "LEAST_SHARED", 10**6)
    check_machine(str(tmp_path))
    assert re.match(r"shared memory: /dev/shm has .* In a container: docker run --shm-size", caplog.messages[0])


def test_a_proxy_for_this_machine_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    (problem,) = machine_problems(str(tmp_path))
    assert (
        problem.found.startswith("http_proxy also applies to this machine (127.0.0.1, localhost") and not problem.stops
    )
    monkeypatch.setenv("no_proxy", problem.remedy.split("=")[1].split(";")[0])
    assert not list(machine_problems(str(tmp_path)))


@pytest.mark.slow
def test_a_kernel_that_a_killed_run_left_unfinished_is_compiled_again(tmp_path, caplog):
    code = """from torch._inductor.codecache import CppCodeCache
assert CppCodeCache.load('extern "C" int kernel() { return 3; }').kernel() == 3"""

    def error_of_a_run() -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    assert not error_of_a_run()
    (library,) = tmp_path.glob("*/*.main.so")
    library.write_bytes(b"")  # what a killed linker leaves, beside torch's folder
    library.with_name(library.name.replace(".so", "_CxxBuild")).mkdir()
    assert "file too short" in error_of_a_run()
    with FileLock(tmp_path / "locks" / library.name.replace(".main.so", ".lock")):  # another run is compiling it
        check_machine(str(tmp_path))
    assert library.exists() and "compiled in full" not in caplog.text
    check_machine(str(tmp_path))
    assert not library.exists() and "compiled in full" in caplog.text
    assert not error_of_a_run()


def test_a_checkout_has_line_endings_that_bash_reads(tmp_path):
    """Also with the setting that git for Windows has by default."""
    clone = [
        "git",
        "clone",
        "--quiet",
        "--depth=1",
        "--config",
        "core.autocrlf=true",
        f"file://{PROJECT}",
        tmp_path / "clone",
    ]
    subprocess.run(clone, check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"})
    for file in (tmp_path / "clone/recipes").glob("*.sh"):
        assert b"\r" not in file.read_bytes()
