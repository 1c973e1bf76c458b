"""verl knows no audio-only processor.

verl/utils/tokenizer/tokenizer.py hf_processor (0.9.1) turns every processor class that it does not list into None, with
a warning; the model then counts as a text model. Needed on every device. With recipes/upstream/4_audio_processor in it,
verl keeps those of models that take audio and no images.
"""

import functools
from types import ModuleType

from verl_leaf.models import FAMILIES
from verl_leaf.patches.base import SOLVED, expect, rebind, says

UPSTREAM = "is_audio_only_processor"  # what verl keeps once recipes/upstream/4_audio_processor is in it


def _patch(tokenizer_module: ModuleType) -> str:
    original = expect(tokenizer_module, "hf_processor", "name_or_path", "kwargs")
    if says(original, UPSTREAM):
        return SOLVED

    @functools.wraps(original)
    def hf_processor(name_or_path, **kwargs):
        from transformers import AutoConfig, AutoProcessor

        try:
            model_type = AutoConfig.from_pretrained(name_or_path, **kwargs).model_type
        except (OSError, ValueError):  # no or an unknown config.json: verl's own affair
            model_type = None
        if model_type in FAMILIES:
            return AutoProcessor.from_pretrained(name_or_path, **kwargs)
        return original(name_or_path, **kwargs)

    rebind(original, hf_processor)
    return "active: verl drops the processors of " + ", ".join(FAMILIES)


HOOKS = {"verl.utils.tokenizer.tokenizer": _patch}
