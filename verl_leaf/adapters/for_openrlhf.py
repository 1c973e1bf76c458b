"""The estimators in OpenRLHF 0.11: ``python -m verl_leaf.adapters.for_openrlhf`` replaces ``openrlhf.cli.train_ppo_ray``.

It accepts the same arguments, and the settings of the estimator, such as ``--leaf.fork_budget``.
"""

import argparse
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from types import SimpleNamespace

import ray
import torch
from openrlhf.trainer import ppo_trainer
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.utils import config

from verl_leaf.adapters.token_credit import EstimatorSettings, Responses, token_advantages
from verl_leaf.algorithm.settings import check_settings


class LeafExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's experience maker with an advantage per token; its rewards, penalties and metrics stay the same."""

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences):
        args = self.strategy.args
        check(args)
        experiences = super().compute_advantages_and_returns(experiences)
        rewards = torch.cat([experience.rewards for experience in experiences])
        if rewards.isnan().any():
            raise ValueError(
                f"{int(rewards.isnan().sum())} of {len(rewards)} responses have the reward nan. Check the reward function"
            )
        row = torch.tensor([index for experience in experiences for index in experience.index])
        advantages, metrics = token_advantages(
            args.leaf,
            [_responses(experience) for experience in experiences],
            rewards,
            row // args.rollout.n_samples_per_prompt,
        )
        for experience, of_experience in zip(experiences, advantages, strict=True):
            experience.advantages, experience.returns = of_experience, of_experience.clone()
            rows = len(experience.index)
            experience.info |= {name: torch.full((rows,), value) for name, value in metrics.items()}
        return experiences


def _responses(experience) -> Responses:
    """Return the responses of a sample. Token ``t + 1`` is action ``t``, and a response may start in any column."""
    log_probs = experience.rollout_log_probs
    if log_probs is None:  # vLLM returns them only with --algo.advantage.is_correction_level token or seq
        log_probs = experience.action_log_probs
    return Responses(experience.sequences[:, 1:], log_probs, experience.action_mask)


@ray.remote
class LeafPPOTrainer(ppo_trainer.PPOTrainer.__ray_actor_class__):
    """OpenRLHF's trainer with our experience maker."""

    def __init__(self, *positional, **named):
        super().__init__(*positional, **named)
        self.experience_maker = LeafExperienceMaker(
            self.actor_model_group,
            self.critic_model_group,
            self.reward_model_group,
            self.reference_model_group,
            self.kl_ctl,
            self.strategy,
            self.tokenizer,
        )


def check(args: SimpleNamespace) -> None:
    """Raise ``ValueError`` if an argument of OpenRLHF cannot be combined with the estimator."""
    args.leaf.options()
    check_settings("openrlhf", args, args.leaf.estimator)


def main(arguments: Sequence[str]) -> None:
    """Run OpenRLHF's command with its arguments and ours."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for setting in fields(EstimatorSettings):
        name, meaning = f"--leaf.{setting.name}", setting.metadata["help"]
        parser.add_argument(name, type=setting.type, default=setting.default, help=meaning)
    ours, others = parser.parse_known_args(arguments)
    if wrong := [word for word in others if word.startswith("--leaf.")]:
        names = ", ".join(f"--leaf.{setting.name}" for setting in fields(EstimatorSettings))
        parser.error(f"{wrong[0]}: there is no such setting. The settings are {names}")
    settings = EstimatorSettings(**{name.removeprefix("leaf."): value for name, value in vars(ours).items()})
    config.hierarchize = _with(settings, config.hierarchize)
    ppo_trainer.PPOTrainer = LeafPPOTrainer
    sys.argv = ["train_ppo_ray", *others]
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__", alter_sys=True)


def _with(settings: EstimatorSettings, hierarchize: Callable) -> Callable:
    """Return ``hierarchize`` with our settings added; OpenRLHF passes its result to every process."""

    def checked(args: argparse.Namespace) -> SimpleNamespace:
        tree = hierarchize(args)
        tree.leaf = settings
        check(tree)
        return tree

    return checked


if __name__ == "__main__":
    # Imported by module path, because Ray would otherwise ship the trainer's class by value.
    from verl_leaf.adapters.for_openrlhf import main as importable

    importable(sys.argv[1:])
