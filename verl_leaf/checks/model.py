"""Whether a model can be trained, known from its config.json."""

import os

from verl_leaf.models import FAMILIES


def check_speech_model(path: str, family: str | None = None) -> None:
    """Stop unless a path or hub name holds a speech model that the package supports.

    Args:
        path: model folder or hub name.
        family: the ``model_type`` that it must have; any supported one if None.

    Raises:
        ValueError: it does not exist, is of another family, or has an adapter of its own.
    """
    from transformers.utils import find_adapter_config_file

    path = os.path.expanduser(path)
    if "://" in path:  # remote storage: veRL copies it later
        return
    config = model_config(path)
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"actor_rollout_ref.model.path={path} is of the family {config.model_type!r}; supported speech models: "
            f"{', '.join(FAMILIES)}"
        )
    if family not in (None, config.model_type):
        raise ValueError(
            f"actor_rollout_ref.model.path={path} is of the family {config.model_type}, the recipe is {family}'s: take "
            "the other family's recipe"
        )
    if find_adapter_config_file(path) is not None:
        raise ValueError(
            f"actor_rollout_ref.model.path={path} has a LoRA adapter of its own, which the actor would load and the rollout "
            f"engine would not. Merge it into the weights, and train the result: verl-leaf merge {path} --out FOLDER"
        )


def model_config(path: str):
    """The Hugging Face configuration of a model folder or hub name.

    Raises:
        ValueError: there is none, or one that transformers does not know.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is neither a folder with a readable config.json nor a model that the Hugging Face hub gives out here "
            f"({error})"
        ) from error
