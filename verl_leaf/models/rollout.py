"""What the rollout engine's class of every family has in common."""

from vllm.model_executor.models.utils import AutoWeightsLoader

from verl_leaf.models.placeholder import mask_placeholders


class SpeechRollout:
    """To be named before vLLM's class of a speech model, which knows the names of the checkpoint files.

    The actor sends weights under the names of transformers 5's modules. ``hf_to_vllm_mapper`` translates them.
    """

    def load_weights(self, weights):
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)

    def compute_logits(self, hidden_states):
        logits = super().compute_logits(hidden_states)
        # None on the ranks of tensor parallelism that gather no logits
        return None if logits is None else mask_placeholders(logits, self.config)
