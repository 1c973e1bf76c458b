"""The common part of the rollout engine's classes."""

from vllm.model_executor.models.utils import AutoWeightsLoader

from verl_leaf.models.placeholder import mask_placeholders


class SpeechRollout:
    """A mixin before vLLM's class of a speech model, which knows only the names of the checkpoint files.

    The actor sends weights with the names of transformers 5's modules, which ``hf_to_vllm_mapper`` translates.
    """

    def load_weights(self, weights):
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)

    def compute_logits(self, hidden_states):
        logits = super().compute_logits(hidden_states)
        # None on ranks of tensor parallelism that gather no logits
        return None if logits is None else mask_placeholders(logits, self.config)
