"""verl knows no audio-only processor.

verl/utils/tokenizer/tokenizer.py hf_processor (0.9.1) turns every processor class that it does not list into None, with
a warning; the model then counts as a text model. And its vLLM server asks a processor that has Qwen2-VL's for images, as
Qwen2.5-Omni's has, for ``image_token_id`` and ``video_token_id``, which that lacks (verl/workers/rollout/utils.py
qwen2_5_vl_dedup_image_tokens). Needed on every device. With recipes/upstream/4_audio_processor in it, verl keeps the
processors of models that take audio and no images.
"""

import functools
from types import ModuleType

from verl_leaf.models import FAMILIES
from verl_leaf.patches.base import expect, rebind, says

UPSTREAM = "is_audio_only_processor"  # what verl keeps once recipes/upstream/4_audio_processor is in it
SOLVED = "active: for Qwen2.5-Omni; audio-only processors are solved upstream"


def _patch(tokenizer_module: ModuleType) -> str:
    original = expect(tokenizer_module, "hf_processor", "name_or_path", "kwargs")
    token_id_of = expect(tokenizer_module, "get_processor_token_id", "processor", "token_name")

    @functools.wraps(original)
    def hf_processor(name_or_path, **kwargs):
        from transformers import AutoConfig, AutoProcessor

        try:
            model_type = AutoConfig.from_pretrained(name_or_path, **kwargs).model_type
        except (OSError, ValueError):  # no or an unknown config.json: verl's own affair
            model_type = None
        if model_type in FAMILIES:
            processor = AutoProcessor.from_pretrained(name_or_path, **kwargs)
            for kind in ("image", "video"):
                if (token_id := token_id_of(processor, kind)) is not None:
                    setattr(processor, f"{kind}_token_id", token_id)
            return processor
        return original(name_or_path, **kwargs)

    rebind(original, hf_processor)
    return SOLVED if says(original, UPSTREAM) else "active: verl drops the processors of " + ", ".join(FAMILIES)


HOOKS = {"verl.utils.tokenizer.tokenizer": _patch}
