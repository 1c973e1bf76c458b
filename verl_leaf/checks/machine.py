"""Checks of the machine that apply to every run; the doctor and the check before a run share them."""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

from filelock import FileLock

logger = logging.getLogger("verl.leaf")  # verl's handler serves only loggers below "verl"

SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED = 1.0  # GiB; Docker's default is 0.06
LEAST_FREE = 1.0  # GiB , for compiled kernels and a run's cached rows
# Folders that a run writes to, each with the setting that moves it. (The hub's cache may be read-only if it has the models.)
CACHES = (
    ("data.cache_dir", "", "~/.cache/verl/rlhf"),
    ("VLLM_CACHE_ROOT", "vLLM's kernels", "~/.cache/vllm"),
    ("TRITON_CACHE_DIR", "Triton's kernels", "~/.triton"),
)


@dataclass(frozen=True)
class MachineProblem:
    """A problem of a machine."""

    # The part that is affected, and what was found, in words.
    what: str
    found: str
    remedy: str  # instruction for the user
    stops: bool  # True if no run can work with it; otherwise some runs cannot, or are slow


def machine_problems(cache_dir: str | None = None) -> Iterator[MachineProblem]:
    """Yield the problems of this machine; ``cache_dir`` is verl's ``data.cache_dir``, or None for its default."""
    folders = {"data.cache_dir": cache_dir, **os.environ}
    for setting, contents, default in CACHES:
        folder = Path(folders.get(setting) or default).expanduser()
        if reason := _not_usable(folder):
            what = f"cache folder of {contents or 'rows'}"
            yield MachineProblem(what, f"{folder} {reason}", f"set {setting} to another folder, or make room", True)
    size = shutil.disk_usage(SHARED_MEMORY).total / 2**30 if SHARED_MEMORY.exists() else 0.0
    if size < LEAST_SHARED:
        problem = f"{SHARED_MEMORY} has {size:.2f} GiB, but Ray and NCCL pass tensors through it"
        yield MachineProblem(
            "shared memory", problem, "in a container: docker run --shm-size=16g, or --ipc=host", False
        )
    hosts = ["127.0.0.1", "localhost", socket.gethostname()]
    proxies = {name for name in ("http", "https") if name in getproxies()}
    if through := [host for host in hosts if proxies and not proxy_bypass(host)]:
        problem = f"{' and '.join(f'{name}_proxy' for name in sorted(proxies))} also applies to this machine ({', '.join(through)})"
        remedy = (
            f"export no_proxy={','.join(hosts)}; otherwise a judge or another server on this machine cannot be reached"
        )
        yield MachineProblem("proxy", problem, remedy, False)


def _not_usable(folder: Path) -> str | None:
    """Return why a process cannot write to a folder, which may not exist yet, or None if it can."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return f"cannot be written to ({error.strerror})"
    free = shutil.disk_usage(there).free / 2**30
    return None if free >= LEAST_FREE else f"is on a disk with {free:.2f} GiB free"


def remove_unfinished_kernels() -> None:
    """Remove kernels that torch's compiler had not written in full when a process was killed.

    torch 2.13 (_inductor/cpp_builder.py, CppBuilder.build) links a library under its final name, next to a folder that it
    removes afterwards, and holds a lock meanwhile (codecache.py). Later it loads a library of 0 bytes without a look at it:
    every run on the machine would fail.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    cache = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default_cache_dir())
    for folder in cache.glob("*/*_CxxBuild"):
        library = folder.with_name(folder.name.replace("_CxxBuild", ".so"))
        try:
            with FileLock(cache / "locks" / f"{library.name.split('.')[0]}.lock", timeout=0):
                library.unlink(missing_ok=True)
                shutil.rmtree(folder)
        except OSError:  # a timeout: another run is compiling it; or it belongs to another user
            continue
        logger.warning(
            "%s was not compiled in full, because a run was killed; it is removed, and compiled again", library
        )


def check_machine(cache_dir: str | None) -> None:
    """Raise ValueError if no run can work on this machine; log its other problems as warnings."""
    remove_unfinished_kernels()
    for problem in machine_problems(cache_dir):
        sentence = f"{problem.what}: {problem.found}. {problem.remedy[0].upper()}{problem.remedy[1:]}"
        if problem.stops:
            raise ValueError(sentence)
        logger.warning(sentence)
