"""Qwen2.5-Omni's thinker for vLLM, with transformers 5's parameter names (vllm 0.24.0)."""

from vllm.model_executor.models import qwen2_5_omni_thinker as base
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from verl_leaf.models.rollout import SpeechRollout
from verl_leaf.models.thinker import CHECKPOINT_PREFIXES
from verl_leaf.models.whisper import ShortExtractor, with_extractor


class ProcessingInfo(base.Qwen2_5OmniThinkerProcessingInfo):
    """vLLM's class, without the silence up to 300 s, whose spectrogram takes longer than the clip's."""

    def get_hf_processor(self, **kwargs):
        return with_extractor(super().get_hf_processor(**kwargs), ShortExtractor)


@MULTIMODAL_REGISTRY.register_processor(
    base.Qwen2_5OmniThinkerMultiModalProcessor,
    info=ProcessingInfo,
    dummy_inputs=base.Qwen2_5OmniThinkerDummyInputsBuilder,
)
class Qwen2_5OmniThinker(SpeechRollout, base.Qwen2_5OmniThinkerForConditionalGeneration):
    """vLLM's class, which also accepts the names of transformers 5's modules."""

    hf_to_vllm_mapper = (
        WeightsMapper(orig_to_new_prefix=CHECKPOINT_PREFIXES)
        | base.Qwen2_5OmniThinkerForConditionalGeneration.hf_to_vllm_mapper
    )

    def load_weights(self, weights):
        """Load weights with vLLM's own method, which leaves out the talker's weights and translates names itself."""
        return super(SpeechRollout, self).load_weights(weights)
