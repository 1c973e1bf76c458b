"""Qwen2.5-Omni's thinker in vLLM, with transformers 5's parameter names (vllm 0.24.0)."""

from vllm.model_executor.models import qwen2_5_omni_thinker as base
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from verl_leaf.models.placeholder import mask_tokens
from verl_leaf.models.qwen2_5_omni import CHECKPOINT_PREFIXES
from verl_leaf.models.qwen2_5_omni.vllm_processor import Processor


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=base.Qwen2_5OmniThinkerProcessingInfo,
    dummy_inputs=base.Qwen2_5OmniThinkerDummyInputsBuilder,
)
class Qwen2_5OmniThinker(base.Qwen2_5OmniThinkerForConditionalGeneration):
    """vLLM's class knows the names of the checkpoint files; the actor sends those of transformers 5's modules."""

    hf_to_vllm_mapper = (
        WeightsMapper(orig_to_new_prefix=CHECKPOINT_PREFIXES)
        | base.Qwen2_5OmniThinkerForConditionalGeneration.hf_to_vllm_mapper
    )

    def compute_logits(self, hidden_states):
        logits = super().compute_logits(hidden_states)
        if logits is None:  # on the ranks of tensor parallelism that gather none
            return None
        return mask_tokens(
            logits, self.config.audio_token_index, self.config.image_token_index, self.config.video_token_index
        )
