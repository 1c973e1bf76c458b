"""``vllm.general_plugins`` entry point. vLLM calls it in every program that it is part of, whoever trains there."""

import importlib.util


def register_models() -> None:
    """Give vLLM our model classes and patches beside verl; do nothing if verl is not installed, since all is for it."""
    if importlib.util.find_spec("verl") is None:
        return
    from vllm import ModelRegistry

    from verl_leaf import patches
    from verl_leaf.models import FAMILIES

    for family in FAMILIES.values():
        for architecture in family.architectures:
            ModelRegistry.register_model(architecture, family.vllm_class)
    patches.install()
