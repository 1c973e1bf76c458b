"""The Ray cluster of a run on one machine, with socket paths that are short enough."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from omegaconf import DictConfig

SOCKET_BYTES = 107  # longest path of a Unix socket
BELOW = "/ray/session_2026-01-31_00-00-00_000000_4194304/sockets/plasma_store"  # ray 2.60, _private/node.py
LONGEST = SOCKET_BYTES - len(BELOW)
LINKS = "/tmp"


@contextmanager
def short_folders() -> Iterator[dict[str, str]]:
    """Yield environment variables with short links to the folders for temporary files; the links exist during the block.

    Raises:
        ValueError: no link can be made.
    """
    with ExitStack() as stack:
        links = {}
        for name in ("RAY_TMPDIR", "TMPDIR"):
            folder = os.environ.get(name, "")
            if len(os.fsencode(folder)) <= LONGEST:
                continue
            try:
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="leaf-", dir=LINKS))
                os.makedirs(folder, exist_ok=True)
                links[name] = os.path.join(scratch, "t")
                os.symlink(os.path.abspath(folder), links[name])
            except OSError as error:
                raise ValueError(
                    f"{name}={folder}: Ray's sockets need a folder of at most {LONGEST} characters, and no short "
                    f"link to this one can be made in {LINKS} ({error.strerror}). Set {name} to a shorter folder"
                ) from error
        yield links


def has_own_cluster(config: DictConfig) -> bool:
    """Return whether a run starts its own Ray cluster.

    Without an address, ``ray.init`` joins the cluster that RAY_ADDRESS or the last ``ray start`` on this machine names. It
    then refuses numbers of CPUs and GPUs.
    """
    init = config.ray_kwargs.ray_init
    describes_one = init.get("num_cpus") is not None or init.get("num_gpus") is not None
    may_join = config.trainer.nnodes > 1 or bool(os.environ.get("RAY_ADDRESS"))
    return init.get("address") is None and (describes_one or not may_join)
