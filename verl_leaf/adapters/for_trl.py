"""The estimators in TRL 1.16: `LeafGRPOTrainer` and `LeafGRPOConfig` replace ``GRPOTrainer`` and ``GRPOConfig``."""

from dataclasses import dataclass

import torch
from accelerate.utils import gather
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from verl_leaf.adapters.token_credit import EstimatorSettings, Responses, token_advantages, total_rewards
from verl_leaf.algorithm.estimators import ESTIMATORS
from verl_leaf.algorithm.settings import check_settings

# Inputs of a multimodal model besides its tokens (trl/trainer/grpo_trainer.py, _compute_loss).
MULTIMODAL = (
    "pixel_values",
    "pixel_attention_mask",
    "image_grid_thw",
    "image_position_ids",
    "image_sizes",
    "spatial_shapes",
    "num_images",
    "num_tiles",
    "token_type_ids",
    "mm_token_type_ids",
)


@dataclass
class LeafGRPOConfig(EstimatorSettings, GRPOConfig):
    """TRL's configuration, with the settings of the estimator.

    Raises:
        ValueError: a value is not valid, or a setting of TRL cannot be combined with the estimator.
    """

    def __post_init__(self):
        super().__post_init__()
        self.options()
        check_settings("trl", self, self.estimator)


class LeafGRPOTrainer(GRPOTrainer):
    """TRL's trainer with an advantage per token; its generation, rewards, metrics and loss stay the same."""

    def __init__(self, model, reward_funcs=None, args=None, *positional, **named):
        if not isinstance(args, LeafGRPOConfig):
            raise ValueError(f"args is {type(args).__name__}. Give LeafGRPOTrainer a LeafGRPOConfig")
        super().__init__(model, reward_funcs, args, *positional, **named)

    def _calculate_rewards(self, *positional, **named):
        self._last_rewards = super()._calculate_rewards(*positional, **named)  # [N, F], of all processes
        return self._last_rewards

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        samples = self.num_generations if mode == "train" else self.num_generations_eval
        rewards = total_rewards(self._last_rewards, self.reward_weights)
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        (output["advantages"],), metrics = token_advantages(
            self.args,
            [Responses(output["completion_ids"], self._sampled_log_probs(output), mask)],
            rewards,
            torch.arange(len(rewards), device=rewards.device) // samples,
            gather=gather,
            process=self.accelerator.process_index,
        )
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        return output

    def _sampled_log_probs(self, output) -> Tensor:
        """Return ``[n, t]``: vLLM's log-probabilities, or the policy's before the update."""
        if not ESTIMATORS[self.args.estimator].needs_surprisal:
            return torch.zeros_like(output["completion_ids"], dtype=torch.float32)
        if "sampling_per_token_logps" in output:
            # NaN if vLLM returned none (extract_logprobs); a token of unknown surprisal must not be a boundary.
            return output["sampling_per_token_logps"].nan_to_num(nan=0.0)
        if "old_per_token_logps" in output:
            return output["old_per_token_logps"]
        with torch.no_grad():
            log_probs, *_ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([output["prompt_ids"], output["completion_ids"]], 1),
                torch.cat([output["prompt_mask"], output["completion_mask"]], 1),
                output["completion_ids"].shape[1],
                batch_size=self.args.per_device_train_batch_size,
                **{name: output.get(name) for name in MULTIMODAL},
            )
        return log_probs
