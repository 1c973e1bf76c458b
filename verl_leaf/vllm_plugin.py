"""``vllm.general_plugins`` entry point. vLLM calls it in every program that it is part of, whoever trains there."""

import importlib.util


def register_models() -> None:
    """Give vLLM our model classes and patches beside verl; nothing where verl is not installed, since all is for it."""
    if importlib.util.find_spec("verl") is None:
        return
    from verl_leaf.plugin import register_vllm_models

    register_vllm_models()
