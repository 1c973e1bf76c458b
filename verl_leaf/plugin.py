"""The wiring: everything the package gives to verl and vLLM, which load it through their entry points.

Both swallow the errors of plugins (verl/__init__.py logs them at DEBUG level, vllm/plugins/__init__.py logs and goes
on), and a half-connected process would train something else than it was asked to. So an error here ends the process
with a message.

What belongs to a verl module is attached right after that module is imported, by wrapt's post-import hooks: a process
that never imports it pays nothing.
"""

import os
import traceback

import wrapt

from verl_leaf import patches
from verl_leaf.cpu import vllm_distribution
from verl_leaf.models import FAMILIES

connected = False


def connect_verl() -> None:
    """Connect the package to verl in this process.

    Raises:
        SystemExit: the installed libraries are not as the package expects them; the message says what to do.
    """
    global connected
    try:
        vllm_distribution.install_alias()
        wrapt.when_imported("hydra")(_register_configurations)
        _select_cpu_platform()
        wrapt.when_imported("verl.trainer.ppo.core_algos")(_register_estimators)
        wrapt.when_imported("verl.workers.engine.fsdp.transformer_impl")(_register_engine)
        patches.install()
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(
            f"verl-leaf could not connect to verl: {error}\n"
            "Run `verl-leaf doctor` for the remedy, or set VERL_USE_EXTERNAL_PLUGINS=none to use verl without it."
        ) from error
    connected = True


def register_vllm_models() -> None:
    """``vllm.general_plugins`` entry point: our model classes and the patches, in every vLLM process."""
    from vllm import ModelRegistry

    for family in FAMILIES.values():
        for architecture in family.architectures:
            ModelRegistry.register_model(architecture, family.vllm_class)
    patches.install()


def _select_cpu_platform() -> None:
    """Give verl a CPU platform where the CPU build of vLLM is installed and no accelerator answers."""
    if not vllm_distribution.is_cpu_build():
        return
    from verl.plugin.platform import get_platform

    from verl_leaf.cpu import platform  # noqa: F401  (importing it registers the platform)

    if get_platform().device_name == "cpu":
        # verl/workers/engine/base.py get_engine_cls: the FSDP engines are registered for cuda and npu only.
        os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")


def _register_configurations(_hydra) -> None:
    from verl_leaf import config

    config.register()


def _register_estimators(core_algos) -> None:
    from verl_leaf import estimator

    for name, own in estimator.ESTIMATORS.items():
        # Not by `register_adv_est`, which refuses a name that verl has (recipes/upstream/5_leaf): ours have metrics, too.
        core_algos.ADV_ESTIMATOR_REGISTRY[name] = own.compute


def _register_engine(_transformer_impl) -> None:
    import verl_leaf.sharing.engine  # noqa: F401  (importing it registers the engine)
