"""The estimators in OpenRLHF 0.11: ``python -m verl_leaf.adapters.for_openrlhf`` in place of ``openrlhf.cli.train_ppo_ray``.

It takes the same arguments, and the settings of the estimator as ``--leaf.fork_budget`` and the like.
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

from verl_leaf.adapters.token_credit import EstimatorSettings, Responses, refuse, token_advantages

CLIP_RANGE = (-10, 10)  # of group_norm's rewards, OpenRLHF's default, which no group of 100 or fewer reaches


class LeafExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's rewards, penalties and metrics; then every token gets an advantage of its own."""

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences):
        args = self.strategy.args
        check(args)
        experiences = super().compute_advantages_and_returns(experiences)
        rewards = torch.cat([experience.rewards for experience in experiences])
        if rewards.isnan().any():
            raise ValueError(f"{int(rewards.isnan().sum())} of {len(rewards)} responses have the reward nan")
        row = torch.tensor([index for experience in experiences for index in experience.index])
        advantages, metrics = token_advantages(
            args.leaf,
            [_responses(experience) for experience in experiences],
            rewards,
            row // args.rollout.n_samples_per_prompt,
        )
        for experience, own in zip(experiences, advantages, strict=True):
            experience.advantages, experience.returns = own, own.clone()
            rows = len(experience.index)
            experience.info |= {name: torch.full((rows,), value) for name, value in metrics.items()}
        return experiences


def _responses(experience) -> Responses:
    """Token ``t + 1`` of a sequence is action ``t``; a response begins after its prompt, in any column."""
    log_probs = experience.rollout_log_probs
    if log_probs is None:  # vLLM gives them with --algo.advantage.is_correction_level token or seq
        log_probs = experience.action_log_probs
    return Responses(experience.sequences[:, 1:], log_probs, experience.action_mask)


@ray.remote
class LeafPPOTrainer(ppo_trainer.PPOTrainer.__ray_actor_class__):
    """OpenRLHF's trainer with the experience maker of ours."""

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
    """Raises ``ValueError`` where OpenRLHF's arguments mean something that the estimators do not do."""
    args.leaf.options()
    refuse(
        {
            "--algo.advantage.estimator other than group_norm, in whose place LEAF stands": (
                args.algo.advantage.estimator != "group_norm"
            ),
            "a KL penalty in the reward, since credit is given for terminal rewards: --algo.kl.use_loss or "
            "--algo.kl.init_coef 0": args.algo.kl.init_coef > 0 and not args.algo.kl.use_loss,
            "--reward.clip_range, which clips what group_norm made of rewards": (
                tuple(args.reward.clip_range) != CLIP_RANGE
            ),
            "--actor.policy_loss_type other than ppo": args.actor.policy_loss_type != "ppo",
            "--train.async_enable": args.train.async_enable,
        }
    )


def main(arguments: Sequence[str]) -> None:
    """OpenRLHF's command with its arguments, and ours."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for setting in fields(EstimatorSettings):
        name, meaning = f"--leaf.{setting.name}", setting.metadata["help"]
        parser.add_argument(name, type=setting.type, default=setting.default, help=meaning)
    own, others = parser.parse_known_args(arguments)
    if wrong := [word for word in others if word.startswith("--leaf.")]:
        parser.error(
            f"{wrong[0]}: valid are {', '.join(f'--leaf.{setting.name}' for setting in fields(EstimatorSettings))}"
        )
    settings = EstimatorSettings(**{name.removeprefix("leaf."): value for name, value in vars(own).items()})
    config.hierarchize = _with(settings, config.hierarchize)
    ppo_trainer.PPOTrainer = LeafPPOTrainer
    sys.argv = ["train_ppo_ray", *others]
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__", alter_sys=True)


def _with(settings: EstimatorSettings, hierarchize: Callable) -> Callable:
    """OpenRLHF reads its arguments through ``hierarchize``, and hands them on to every process as part of its strategy."""

    def checked(args: argparse.Namespace) -> SimpleNamespace:
        tree = hierarchize(args)
        tree.leaf = settings
        check(tree)
        return tree

    return checked


if __name__ == "__main__":
    # By the module's own name, or Ray would ship the trainer's class by value.
    from verl_leaf.adapters.for_openrlhf import main as importable

    importable(sys.argv[1:])
