"""The ``verl.plugins`` entry point. verl only imports it (verl/__init__.py), so importing it connects the package.

Changes to a module of verl are attached right after that module is imported, by wrapt's post-import hooks. A process that
never imports the module pays nothing.
"""

import os
import traceback


def _connect() -> None:
    import wrapt

    from verl_leaf import patches
    from verl_leaf.common import vllm_distribution

    vllm_distribution.install_alias()
    wrapt.when_imported("hydra")(_register_configurations)
    if vllm_distribution.is_cpu_build():
        _register_cpu_platform()
    wrapt.when_imported("verl.trainer.ppo.core_algos")(_register_estimators)
    wrapt.when_imported("verl.workers.engine.fsdp.transformer_impl")(_register_engine)
    patches.install()


def _register_cpu_platform() -> None:
    from verl.plugin.platform import get_platform

    from verl_leaf.plugin import cpu_platform  # noqa: F401  (importing it registers the platform)

    if get_platform().device_name == "cpu":
        # verl/workers/engine/base.py get_engine_cls: the FSDP engines are registered for cuda and npu only.
        os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")


def _register_configurations(_hydra) -> None:
    from verl_leaf import config

    config.register()


def _register_estimators(core_algos) -> None:
    from verl_leaf.training import estimator

    for name, function in estimator.FUNCTIONS.items():
        # Not by `register_adv_est`, which refuses verl's names (recipes/upstream/5_leaf); our functions also have metrics.
        core_algos.ADV_ESTIMATOR_REGISTRY[name] = function


def _register_engine(_transformer_impl) -> None:
    import verl_leaf.training.sharing.engine  # noqa: F401  (importing it registers the engine)


try:
    _connect()
except ModuleNotFoundError as error:
    raise SystemExit(
        f"verl-leaf cannot connect to verl without {error.name}. Run pip install 'verl-leaf[verl]', "
        "or set VERL_USE_EXTERNAL_PLUGINS=none to use verl without it."
    ) from error
except Exception as error:
    traceback.print_exc()
    raise SystemExit(
        f"verl-leaf could not connect to verl: {error}\n"
        "Run `verl-leaf doctor` to see what to do, or set VERL_USE_EXTERNAL_PLUGINS=none to use verl without it."
    ) from error
