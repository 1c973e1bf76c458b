"""Trainers' settings that would not do what they state with one advantage per token: `SETTINGS`.

A run with such a setting is refused before it starts. README.md discusses all settings of verl.
"""

from dataclasses import dataclass
from typing import Any

PER_RESPONSE = "uses one advantage per response, so the credit of its tokens would be lost"
TERMINAL = (
    "charges a response's KL to its reward, so every token would be charged for the KL of all others; use the KL loss"
)
SCALE = "asks for a scale of advantages that {} does not have"
NO_CRITIC = "keeps the actor waiting for a critic, and {} has none"
NO_EFFECT = "has no effect, because {} does not read it"


@dataclass(frozen=True)
class Setting:
    """A setting of a trainer, and the values that work with our estimators.

    Attributes:
        name: name of the setting, with dots between sections.
        reason: clause after "which" that says what is wrong with other values; ``{}`` stands for the estimator.
        only: valid values. None means that the trainer does not have the setting.
        never: values that are not valid, if ``only`` is empty.
        unless: another setting and its values, with which any value of this setting is valid.
        but: estimators with which any value is valid.
    """

    name: str
    reason: str
    only: tuple[Any, ...] = ()
    never: tuple[Any, ...] = ()
    unless: tuple[str, tuple[Any, ...]] | None = None
    but: tuple[str, ...] = ()


SETTINGS = {
    "verl": (
        Setting(
            "actor_rollout_ref.actor.policy_loss.loss_mode", PER_RESPONSE, never=("geo_mean",), but=("grpo_floored",)
        ),
        Setting("algorithm.norm_adv_by_std_in_grpo", SCALE, only=(True,), but=("grpo_prefix",)),
        Setting("algorithm.use_kl_in_reward", TERMINAL, only=(False,)),
        Setting("algorithm.gamma", NO_EFFECT, only=(1,)),
        Setting("algorithm.lam", NO_EFFECT, only=(1,)),
        Setting("algorithm.use_pf_ppo", NO_EFFECT, only=(False,)),
        Setting("algorithm.gdpo_reward_keys", NO_EFFECT, only=(None,)),
        Setting("algorithm.gdpo_reward_weights", NO_EFFECT, only=(None,)),
        Setting(
            "algorithm.rollout_correction.bypass_mode",
            "leaves out the actor's log-probabilities, which algorithm.leaf.surprisal=old needs",
            only=(False, None),
            unless=("algorithm.leaf.surprisal", ("rollout", None)),
            but=("grpo_floored", "grpo_prefix", "tempo", "lambda_grpo"),
        ),
        Setting("trainer.critic_warmup", NO_CRITIC, only=(0,)),
        Setting("critic.enable", "trains a critic, whose values {} does not read", only=(None, False)),
    ),
    "trl": (
        Setting("scale_rewards", SCALE, only=("group",)),
        Setting("multi_objective_aggregation", SCALE, only=("sum_then_normalize",)),
        Setting("loss_type", PER_RESPONSE, never=("vespo",)),
        Setting("importance_sampling_level", PER_RESPONSE, only=("token",)),
        Setting("off_policy_mask_threshold", PER_RESPONSE, only=(None,)),
    ),
    "ms_swift": (
        Setting("advantage_estimator", "is an estimator that {} replaces", only=("grpo",)),
        Setting("kl_in_reward", TERMINAL, only=(False, None)),
        Setting("scale_rewards", SCALE, only=("group", None)),
        Setting("importance_sampling_level", PER_RESPONSE, never=("sequence",)),
        Setting("loss_type", PER_RESPONSE, never=("real",)),
        Setting("off_policy_sequence_mask_delta", PER_RESPONSE, only=(None,)),
        Setting("use_liger_kernel", PER_RESPONSE, only=(False, None)),
        Setting("advantage_reweight", SCALE, only=(None,)),
        Setting("multi_turn_scheduler", "may train on a response more than once", only=(None,)),
    ),
    "ms_swift's trainer": (
        Setting("template.padding_free", "puts several responses into a row", only=(False,)),
        Setting("template.sequence_parallel_size", "splits responses", only=(1,)),
        Setting("teacher_model", "adds its log-probabilities to advantages", only=(None,)),
        Setting("teacher_model_server", "adds its log-probabilities to advantages", only=(None,)),
    ),
    "ms_swift's batch": (
        Setting("dynamic_num_samples", "makes several samples of a rollout", only=(False,)),
        Setting("teacher_per_token_logps", "would be added to advantages", only=(None,)),
    ),
    "openrlhf": (
        Setting("algo.advantage.estimator", "is an estimator that {} replaces", only=("group_norm",)),
        Setting("algo.advantage.gamma", NO_EFFECT, only=(1,)),
        Setting("algo.kl.use_loss", TERMINAL, only=(True,), unless=("algo.kl.init_coef", (0,))),
        # OpenRLHF's default, which groups of up to 100 responses never reach.
        Setting("reward.clip_range", "clips the normalised rewards", only=((-10, 10),)),
        Setting("actor.policy_loss_type", PER_RESPONSE, only=("ppo",)),
        Setting("critic.freezing_steps", NO_CRITIC, only=(-1, 0)),
        Setting("train.async_enable", "trains on responses of several steps", only=(False,)),
    ),
}


def check_settings(trainer: str, config: Any, estimator: str) -> None:
    """Raise ValueError if settings of a trainer, a key of `SETTINGS`, cannot be combined with an estimator.

    The settings are attributes of ``config``. The message names all such settings, the reasons and the valid values.
    """
    problems = []
    for setting in SETTINGS[trainer]:
        value = _value(config, setting.name)
        is_wrong = value not in setting.only if setting.only else value in setting.never
        excused = setting.unless is not None and _value(config, setting.unless[0]) in setting.unless[1]
        if is_wrong and not excused and estimator not in setting.but:
            remedy = f"set it to {_in_words(setting.only[0])}" if setting.only else "choose another"
            reason = setting.reason.format(estimator)
            problems.append(f"{setting.name}={_in_words(value)}, which {reason}: {remedy}")
    if problems:
        raise ValueError(f"{estimator} cannot be combined with {'; '.join(problems)}")


def _value(config: Any, name: str) -> Any:
    """Return the value of a setting, or None if the configuration does not have it."""
    for part in name.split("."):
        config = getattr(config, part, None)
    return tuple(config) if isinstance(config, list) else config


def _in_words(value: Any) -> str:
    return "null" if value is None else str(value)
