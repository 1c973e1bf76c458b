"""The estimators in ms-swift 4.6, as one of its external plugins: ``swift rlhf --rlhf_type grpo --external_plugins FILE``.

ms-swift reads its command line before it imports a plugin, so the settings come the way that its models' own do: as
environment variables, or from ``--model_kwargs``, which makes such of a JSON dictionary.
"""

import os
from dataclasses import dataclass, fields
from typing import Any

import torch
from accelerate.utils import gather
from swift.rlhf_trainers import GRPOConfig, GRPOTrainer
from swift.trainers import TrainerFactory

from verl_leaf.adapters.token_credit import EstimatorSettings, Responses, refuse, token_advantages, total_rewards

PREFIX = "LEAF_"


@dataclass
class LeafGRPOConfig(EstimatorSettings, GRPOConfig):
    """ms-swift's configuration, with the settings of the estimator from the environment, such as ``LEAF_FORK_BUDGET``.

    Raises:
        ValueError: a variable or value is not valid, or a setting of ms-swift's means something that the estimators do
            not do.
    """

    def __post_init__(self):
        self._read_environment()
        self.options()
        refuse(
            {
                "advantage_estimator other than grpo, in whose place LEAF stands": self.advantage_estimator != "grpo",
                "kl_in_reward, since credit is given for terminal rewards": bool(self.kl_in_reward),
                "scale_rewards other than group, since credits have a scale of their own": (
                    self.scale_rewards not in (None, "group")
                ),
                "importance_sampling_level other than token": self.importance_sampling_level != "token",
                "loss_type real, which takes one advantage per response": self.loss_type == "real",
                "off_policy_sequence_mask_delta, which takes one advantage per response": (
                    self.off_policy_sequence_mask_delta is not None
                ),
                "use_liger_kernel, which takes one advantage per response": bool(self.use_liger_kernel),
                "advantage_reweight": self.advantage_reweight is not None,
                "multi_turn_scheduler, which may train on a response more than once": (
                    self.multi_turn_scheduler is not None
                ),
            }
        )
        super().__post_init__()

    def _read_environment(self) -> None:
        types: dict[str, Any] = {setting.name: setting.type for setting in fields(EstimatorSettings)}
        for variable in [name for name in os.environ if name.startswith(PREFIX)]:
            name, value = variable.removeprefix(PREFIX).lower(), os.environ[variable]
            if name not in types:
                valid = ", ".join(f"{PREFIX}{setting.upper()}" for setting in types)
                raise ValueError(f"{variable}={value}: verl-leaf has no such setting; valid are {valid}")
            try:
                setattr(self, name, types[name](value))
            except ValueError:
                kind = "an integer" if types[name] is int else "a number"
                raise ValueError(f"{variable}={value}: must be {kind}") from None


class LeafGRPOTrainer(GRPOTrainer):
    """ms-swift's trainer; its generation, rewards, metrics and loss stay, and every token gets an advantage of its own."""

    def __init__(self, model=None, *positional, **named):
        refuse(
            {
                "padding_free and packing": named["template"].padding_free,
                "sequence_parallel_size above 1": named["template"].sequence_parallel_size > 1,
                "a teacher, whose log-probabilities are added to advantages": any(
                    named.get(name) for name in ("teacher_model", "teacher_model_server")
                ),
            }
        )
        super().__init__(model, *positional, **named)

    def _postprocess_batch(self, samples, batch_encoded_inputs):
        batches = [encoded["grpo_batch"] for encoded in batch_encoded_inputs]
        refuse(
            {
                "rollouts of several samples each": self.dynamic_num_samples,
                "a teacher, whose log-probabilities are added to advantages": any(
                    batch.teacher_per_token_logps is not None for batch in batches
                ),
            }
        )
        super()._postprocess_batch(samples, batch_encoded_inputs)  # its rewards, metrics and logs
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
        for batch, own in zip(batches, advantages, strict=True):
            batch.advantages = own
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)

    @staticmethod
    def _responses(model_inputs, grpo_batch, **_) -> Responses:
        """Prompts of different length end in different columns, so a response may begin anywhere in its row."""
        tokens = model_inputs["input_ids"][:, -grpo_batch.completion_mask.shape[1] :]
        log_probs = grpo_batch.rollout_per_token_logps
        if log_probs is None:  # transformers generated, or vLLM's do not fit the tokens
            log_probs = grpo_batch.old_per_token_logps
        return Responses(tokens, log_probs, grpo_batch.completion_mask)


# By the module's own name: ms-swift gives the file that it imports another one.
TrainerFactory.TRAINING_ARGS_MAPPING["grpo"] = "verl_leaf.adapters.for_ms_swift.LeafGRPOConfig"
TrainerFactory.TRAINER_MAPPING["grpo"] = "verl_leaf.adapters.for_ms_swift.LeafGRPOTrainer"
