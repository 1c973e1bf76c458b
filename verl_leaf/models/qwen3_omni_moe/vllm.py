"""Qwen3-Omni's thinker for vLLM, with transformers 5's parameter names (vllm 0.31.0)."""

import torch
from torch.nn import functional as F
from transformers import BatchFeature, WhisperFeatureExtractor
from vllm.model_executor.models import qwen3_omni_moe_thinker as base
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from verl_leaf.models.qwen3_omni_moe import with_silence
from verl_leaf.models.rollout import SpeechRollout
from verl_leaf.models.thinker import CHECKPOINT_PREFIXES
from verl_leaf.models.whisper import with_extractor


class EachAlone(WhisperFeatureExtractor):
    """transformers' feature extractor, with a call of its own for each clip."""

    def __call__(self, raw_speech, **arguments):
        compute = super().__call__
        clips = [compute([clip], **{**arguments, "return_tensors": "pt"}) for clip in raw_speech]
        longest = max(clip["input_features"].shape[-1] for clip in clips)

        def joined(name: str) -> torch.Tensor:
            return torch.cat([F.pad(clip[name], (0, longest - clip[name].shape[-1])) for clip in clips])

        return BatchFeature({name: joined(name) for name in clips[0]})


class ProcessingInfo(base.Qwen3OmniMoeThinkerProcessingInfo):
    """vLLM's class, with features that do not depend on a prompt's other clips."""

    def get_hf_processor(self, **kwargs):
        return with_extractor(super().get_hf_processor(**kwargs), EachAlone)


@MULTIMODAL_REGISTRY.register_processor(
    base.Qwen3OmniMoeThinkerMultiModalProcessor,
    info=ProcessingInfo,
    dummy_inputs=base.Qwen3OmniMoeThinkerDummyInputsBuilder,
)
class Qwen3OmniMoeThinker(SpeechRollout, base.Qwen3OmniMoeThinkerForConditionalGeneration):
    """vLLM's class, which also accepts the names of transformers 5's modules."""

    hf_to_vllm_mapper = (
        WeightsMapper(orig_to_new_prefix=CHECKPOINT_PREFIXES)
        | base.Qwen3OmniMoeThinkerForConditionalGeneration.hf_to_vllm_mapper
    )

    def __init__(self, *, vllm_config, prefix=""):
        # The experts get kernels without LoRA, because those with LoRA need a GPU (layers/fused_moe/layer.py `is_lora_enabled`).
        lora, vllm_config.lora_config = vllm_config.lora_config, None
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        vllm_config.lora_config = lora

    def load_weights(self, weights):
        """Load weights with vLLM's method, which leaves out the talker's weights and translates names by itself."""
        return super(SpeechRollout, self).load_weights(weights)

    def _process_audio_input(self, audio_input):
        mel, frames = with_silence(audio_input["input_features"], audio_input["audio_feature_lengths"])
        *embeddings, _ = super()._process_audio_input({"input_features": mel, "audio_feature_lengths": frames})
        return tuple(embeddings)
