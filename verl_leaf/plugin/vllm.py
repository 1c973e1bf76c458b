"""The ``vllm.general_plugins`` entry point, which vLLM calls in every program that uses it, whatever the program is for."""

import importlib.util


def register_models() -> None:
    """Register model classes and patches with vLLM; do nothing if verl is not installed, because only verl needs them."""
    if importlib.util.find_spec("verl") is None:
        return
    from vllm import ModelRegistry

    from verl_leaf import patches
    from verl_leaf.models import FAMILIES

    for family in FAMILIES.values():
        for architecture in family.architectures:
            ModelRegistry.register_model(architecture, family.vllm_class)
    patches.install()
