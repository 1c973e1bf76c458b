"""verl loads Qwen2-Audio for the actor without a language-model head.

verl/utils/model.py get_hf_auto_model_class (0.9.1) uses ``AutoModel`` for a configuration that no auto class of
transformers maps, and so for Qwen2-Audio. transformers' registry accepts our class only after it is imported. So the
class is registered when verl asks for the class of a speech model, and a text run imports nothing for speech. With
recipes/upstream/4_audio_processor in it, verl uses transformers' class with its head. Ours is still needed, because it
works with FSDP2 and masks the placeholder.
"""

import functools
from types import ModuleType

from verl_leaf.models import FAMILIES
from verl_leaf.patches.base import expect, rebind, says

UPSTREAM = "AutoModelForMultimodalLM"  # in verl's source once recipes/upstream/4_audio_processor is in it
SOLVED = "active: for our classes; the language-model head is solved upstream"


def _patch(model_module: ModuleType) -> str:
    original = expect(model_module, "get_hf_auto_model_class", "hf_config")

    @functools.wraps(original)
    def get_hf_auto_model_class(hf_config):
        if hf_config.model_type in FAMILIES:
            from transformers import AutoModelForImageTextToText

            hf_class = FAMILIES[hf_config.model_type].load_hf_class()
            AutoModelForImageTextToText.register(type(hf_config), hf_class, exist_ok=True)
        return original(hf_config)

    rebind(original, get_hf_auto_model_class)
    if says(original, UPSTREAM):
        return SOLVED
    return "active: verl knows no class with a language-model head for speech models"


HOOKS = {"verl.utils.model": _patch}
