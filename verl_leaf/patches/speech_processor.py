"""verl does not support audio-only processors.

verl/utils/tokenizer/tokenizer.py hf_processor (0.9.1) turns every processor class that it does not list into None, with
a warning, and then treats the model as a text model. Its vLLM server also asks a processor with Qwen2-VL's image
processor, such as Qwen2.5-Omni's, for ``image_token_id`` and ``video_token_id``, which Qwen2.5-Omni's lacks
(verl/workers/rollout/utils.py qwen2_5_vl_dedup_image_tokens). This patch is needed on every device. With
recipes/upstream/4_audio_processor in it, verl keeps the processors of models that accept audio and no images.
"""

import functools
from types import ModuleType

from verl_leaf.models import FAMILIES
from verl_leaf.patches.base import expect, rebind, says

UPSTREAM = "is_audio_only_processor"  # in verl's source once recipes/upstream/4_audio_processor is in it
SOLVED = "active: for Qwen2.5-Omni; audio-only processors are solved upstream"


def _patch(tokenizer_module: ModuleType) -> str:
    original = expect(tokenizer_module, "hf_processor", "name_or_path", "kwargs")
    token_id_of = expect(tokenizer_module, "get_processor_token_id", "processor", "token_name")

    @functools.wraps(original)
    def hf_processor(name_or_path, **kwargs):
        from transformers import AutoConfig, AutoProcessor

        try:
            model_type = AutoConfig.from_pretrained(name_or_path, **kwargs).model_type
        except (OSError, ValueError):  # config.json is missing or unknown, which verl handles
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
