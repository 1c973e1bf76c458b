"""The estimators in ms-swift 4.6 as an external plugin: ``swift rlhf --rlhf_type grpo --external_plugins FILE``.

ms-swift parses its command line before it imports a plugin. So the settings are environment variables, which can also
be set with ``--model_kwargs`` and a JSON dictionary, like those of ms-swift's models.
"""

import os
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.utils import gather
from swift.rlhf_trainers import GRPOConfig, GRPOTrainer
from swift.trainers import TrainerFactory

from verl_leaf.adapters.token_credit import EstimatorSettings, Responses, token_advantages, total_rewards
from verl_leaf.algorithm.settings import check_settings

PREFIX = "LEAF_"


@dataclass
class LeafGRPOConfig(EstimatorSettings, GRPOConfig):
    """ms-swift's configuration, with the settings of the estimator from the environment, such as ``LEAF_FORK_BUDGET``.

    Raises:
        ValueError: a variable or value is not valid, or a setting of ms-swift cannot be combined with the estimator.
    """

    def __post_init__(self):
        self._read_environment()
        self.options()
        check_settings("ms_swift", self, self.estimator)
        super().__post_init__()

    def _read_environment(self) -> None:
        types: dict[str, Any] = {setting.name: setting.type for setting in fields(EstimatorSettings)}
        for variable in [name for name in os.environ if name.startswith(PREFIX)]:
            name, value = variable.removeprefix(PREFIX).lower(), os.environ[variable]
            if name not in types:
                valid = ", ".join(f"{PREFIX}{setting.upper()}" for setting in types)
                raise ValueError(f"{variable}={value}: verl-leaf has no such setting. The settings are {valid}")
            try:
                setattr(self, name, types[name](value))
            except ValueError:
                kind = "an integer" if types[name] is int else "a number"
                raise ValueError(f"{variable}={value}: set it to {kind}") from None


class LeafGRPOTrainer(GRPOTrainer):
    """ms-swift's trainer with an advantage per token; its generation, rewards, metrics and loss stay the same."""

    def __init__(self, model=None, *positional, **named):
        check_settings("ms_swift's trainer", SimpleNamespace(**named), "verl-leaf")
        super().__init__(model, *positional, **named)

    def _postprocess_batch(self, samples, batch_encoded_inputs):
        batches = [encoded["grpo_batch"] for encoded in batch_encoded_inputs]
        teachers = [batch.teacher_per_token_logps for batch in batches if batch.teacher_per_token_logps is not None]
        settings = SimpleNamespace(
            dynamic_num_samples=self.dynamic_num_samples, teacher_per_token_logps=len(teachers) or None
        )
        check_settings("ms_swift's batch", settings, "verl-leaf")
        super()._postprocess_batch(samples, batch_encoded_inputs)  # computes ms-swift's rewards, metrics and logs
        mode = "train" if self.model.training else "eval"
        per_prompt = self.num_generations if mode == "train" else self.num_generations_eval
        rewards = total_rewards(self._rewards_per_func, self.reward_weights)
        advantages, metrics = token_advantages(
            self.args,
            [self._responses(**encoded) for encoded in batch_encoded_inputs],
            rewards,
            torch.arange(len(rewards), device=rewards.device) // per_prompt,
            gather=gather,
            process=self.accelerator.process_index,
        )
        for batch, of_batch in zip(batches, advantages, strict=True):
            batch.advantages = of_batch
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)

    @staticmethod
    def _responses(model_inputs, grpo_batch, **_) -> Responses:
        """Return the responses of a batch. Prompts differ in length, so a response may start in any column."""
        tokens = model_inputs["input_ids"][:, -grpo_batch.completion_mask.shape[1] :]
        log_probs = grpo_batch.rollout_per_token_logps
        if log_probs is None:  # transformers generated, or vLLM's log-probabilities do not match the tokens
            log_probs = grpo_batch.old_per_token_logps
        return Responses(tokens, log_probs, grpo_batch.completion_mask)


# Named by module path, because ms-swift imports this file as a module with another name.
TrainerFactory.TRAINING_ARGS_MAPPING["grpo"] = "verl_leaf.adapters.for_ms_swift.LeafGRPOConfig"
TrainerFactory.TRAINER_MAPPING["grpo"] = "verl_leaf.adapters.for_ms_swift.LeafGRPOTrainer"
