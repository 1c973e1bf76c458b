"""The advantage estimators with verl's interface: unpack, compute, pack. The maths is in :mod:`verl_leaf.algorithm`."""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from verl_leaf.algorithm import last_position
from verl_leaf.algorithm.estimators import ESTIMATORS, Credit, Options, Rollouts

logger = logging.getLogger("verl.leaf")  # verl's handler serves only loggers below "verl"

WRITTEN_MASK = "written_mask"  # the response_mask of a batch as it was before rejection sampling


def read_options(name: str, algorithm_config) -> Options:
    """Return an estimator's options from the section with its name in verl's ``algorithm`` section.

    Raises:
        ValueError: an option or a value is unknown. The message lists the valid ones.
    """
    options, algorithm = ESTIMATORS[name].options, algorithm_config or {}
    valid = options.by_name()
    section = (algorithm.get(name) if valid else None) or {}
    if not isinstance(section, Mapping):
        raise ValueError(f"algorithm.{name}={section!r}: give a mapping of options to values")
    if unknown := sorted(map(str, set(section) - set(valid))):
        raise ValueError(f"algorithm.{name} has no option {', '.join(unknown)}. Its options are {', '.join(valid)}")
    of_verl = {
        option.name: algorithm.get(option.name, option.default)
        for option in fields(options)
        if option.name not in valid
    }
    try:
        return options(**section, **of_verl)
    except ValueError as error:
        raise ValueError(f"algorithm.{name}.{error}") from None


@dataclass(frozen=True)
class Step:
    """A call of an estimator: its input, its result before rejection, and its metrics with the tracker's names."""

    metrics: dict[str, float]
    rollouts: Rollouts
    credit: Credit


class RewardError(ValueError):
    """An error if a reward is not finite.

    Attributes:
        prompt: uid of the prompt with the reward, or None if the batch has no uids.
    """

    def __init__(self, message: str, prompt: str | None):
        super().__init__(message)
        self.prompt = prompt


def advantages(
    name: str,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config=None,
    *,
    batch: Mapping[str, torch.Tensor],
    report: Callable[[Step], Any] | None = None,
    **_,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the advantages of one of our estimators, ``algorithm.adv_estimator=NAME``.

    Args:
        name: name of the estimator.
        token_level_rewards: ``[N, T]`` float; the sum over a row is its terminal reward.
        response_mask: ``[N, T]``, 1 on tokens that the policy wrote and rejection sampling kept. The other tokens of a
            response come from a tool or the user, or are rejected.
        index: ``[N]``, with the same entry for rows of one prompt (verl's ``uid``).
        config: verl's ``algorithm`` section; the options are in the section with the estimator's name.
        batch: ``responses`` ``[N, T]`` integer and, if the estimator needs the surprisal, ``rollout_log_probs`` ``[N,
            T]`` float, natural logarithms under the sampling distribution. ``old_log_probs``, which are the actor's,
            are used if the engine returned none, and with ``surprisal=old``. ``attention_mask`` ``[N, P + T]`` shows
            where responses end; without it, they end at the last token in ``response_mask``. ``written_mask`` ``[N,
            T]`` is 1 on all tokens that the policy wrote, so that a rejected token can still be a boundary; without it,
            ``response_mask`` is used.
        report: function that is called with the :class:`Step`.

    Returns:
        ``(advantages, returns)``, the same tensor twice: ``[N, T]`` in the dtype of the rewards, 0 outside the mask.

    Raises:
        ValueError: an option is unknown, ``batch`` lacks a field, or a log-probability is NaN.
    """
    estimator, options = ESTIMATORS[name], read_options(name, config)
    mask = batch.get(WRITTEN_MASK, response_mask).bool()
    surprisal = None
    if estimator.needs_surprisal:
        surprisal = -_log_probs(name, batch, getattr(options, "surprisal", "rollout"))
        _refuse_nan(surprisal.isnan() & mask, index)
    rollouts = Rollouts(
        tokens=batch["responses"],
        mask=mask,
        rewards=token_level_rewards.sum(dim=-1),
        group=_dense_groups(index, mask.device),
        lengths=_lengths(batch, mask),
        surprisal=surprisal,
    )
    credit, metrics = estimator(rollouts, options)
    if report is not None:
        report(Step(metrics, rollouts, credit))
    left_in = credit.advantages.masked_fill(~response_mask.bool(), 0)
    return left_in, left_in


FUNCTIONS = {name: functools.partial(advantages, name) for name in ESTIMATORS}
"""The functions of verl's registry, by the names that ``algorithm.adv_estimator`` may have in addition to verl's own."""


def check_rewards(token_level_rewards: torch.Tensor, index: np.ndarray | None) -> None:
    """Raise RewardError unless all rewards ``[N, T]`` are finite; ``index`` ``[N]`` contains the names of the prompts."""
    wrong = ~token_level_rewards.isfinite()
    rows = wrong.any(dim=-1).nonzero().flatten().tolist()
    if rows:
        row = rows[0]
        prompt = None if index is None else index[row]
        raise RewardError(
            f"the reward of row {row}, prompt {prompt}, is {token_level_rewards[row][wrong[row]][0].item()}, which is not finite "
            f"({len(rows)} of {len(wrong)} rows have such a reward). The reward function must return finite numbers",
            prompt,
        )


def _dense_groups(index, device) -> torch.Tensor:
    """Return ``[N]`` int64 on ``device``: group numbers from 0 for any hashable entries."""
    numbers: dict = {}
    return torch.tensor([numbers.setdefault(entry, len(numbers)) for entry in index], device=device)


def _lengths(batch: Mapping[str, torch.Tensor], response_mask: torch.Tensor) -> torch.Tensor:
    """Return ``[N]`` int64, the length of each response up to its last token, even if rejection sampling removed it."""
    attended, T = batch.get("attention_mask"), response_mask.shape[1]
    return last_position(response_mask if attended is None else attended[:, attended.shape[1] - T :]) + 1


def _log_probs(name: str, batch: Mapping[str, torch.Tensor], surprisal: str) -> torch.Tensor:
    sampled, actors = batch.get("rollout_log_probs"), batch.get("old_log_probs")
    if batch.get("responses") is not None:
        if surprisal == "rollout" and sampled is not None:
            return sampled
        if actors is not None:
            if surprisal == "rollout":
                _warn_once(
                    f"the engine returned no log-probabilities, so {name} computes the surprisal from old_log_probs"
                )
            return actors
    raise ValueError(
        f"{name} needs responses, and {'old_log_probs' if surprisal == 'old' else 'rollout_log_probs or old_log_probs'} in "
        f"its batch, but it got {', '.join(sorted(batch))}. verl fills rollout_log_probs with "
        "actor_rollout_ref.rollout.calculate_log_probs=True"
    )


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _refuse_nan(is_nan: torch.Tensor, index: np.ndarray) -> None:
    """Raise an error if ``is_nan`` ``[N, T]`` of the log-probabilities is True anywhere."""
    rows = is_nan.any(dim=-1).nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"the log-probabilities of row {rows[0]}, prompt {index[rows[0]]}, contain NaN ({len(rows)} of {len(is_nan)} rows do). "
            "The actor or the rollout engine has diverged"
        )
