"""The advantage estimators as veRL calls them: unpack, compute, pack. The maths is in :mod:`verl_leaf.algorithm`."""

import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch

from verl_leaf.algorithm import CREDITS, LeafAdvantages, grpo_floored_advantages, leaf_advantages, leaf_metrics

logger = logging.getLogger("verl.leaf")  # veRL gives its handler to the loggers below its own name only


@dataclass(frozen=True)
class LeafOptions:
    """``algorithm.leaf`` in veRL's configuration."""

    fork_budget: int = 2  # B, the most boundaries of a group
    min_prefix_tokens: int = 1  # m, the earliest position that may be a boundary
    credit: str = "both"  # both, or for ablations: global, local
    surprisal: str = "rollout"  # rollout: under the distribution that was sampled from; old: under the actor's
    trace_dir: str | None = None  # folder to write the trees of a step to, see verl_leaf.traces.writer
    trace_every: int = 10  # steps from one trace to the next

    @classmethod
    def parse(cls, algorithm_config) -> "LeafOptions":
        """Read the options from veRL's ``algorithm`` section.

        Raises:
            ValueError: an option or a value is unknown; the message lists the valid ones.
        """
        given = dict((algorithm_config.get("leaf") if algorithm_config is not None else None) or {})
        valid = [field.name for field in fields(cls)]
        unknown = sorted(set(given) - set(valid))
        if unknown:
            raise ValueError(f"algorithm.leaf has no option {', '.join(unknown)}; valid: {', '.join(valid)}")
        options = cls(**given)
        for name, least in (("fork_budget", 0), ("min_prefix_tokens", 0), ("trace_every", 1)):
            value = getattr(options, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"algorithm.leaf.{name}={value!r}: valid are the integers from {least} on")
        if not isinstance(options.trace_dir, str | None):
            raise ValueError(
                f"algorithm.leaf.trace_dir={options.trace_dir!r}: valid are the path of a folder, and null"
            )
        for name, values in (("credit", CREDITS), ("surprisal", ("rollout", "old"))):
            if getattr(options, name) not in values:
                raise ValueError(f"algorithm.leaf.{name}={getattr(options, name)!r}: valid are {', '.join(values)}")
        return options


@dataclass(frozen=True)
class LeafStep:
    """One call of :func:`leaf`: what it was given, what it computed, and its metrics under the tracker's names."""

    responses: torch.Tensor  # [N, T]
    log_probs: torch.Tensor  # [N, T]
    mask: torch.Tensor  # [N, T] bool
    rewards: torch.Tensor  # [N]
    result: LeafAdvantages
    metrics: dict[str, float]


_last_step: LeafStep | None = None


def leaf(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config=None,
    *,
    batch: Mapping[str, torch.Tensor],
    **_,
) -> tuple[torch.Tensor, torch.Tensor]:
    """LEAF advantages (arXiv 2606.07610), ``algorithm.adv_estimator=leaf``.

    Args:
        token_level_rewards: ``[N, T]`` float, their sum over a row is its terminal reward.
        response_mask: ``[N, T]``, 1 on tokens that the policy wrote.
        index: ``[N]``, rows of one prompt have the same entry (veRL's ``uid``).
        config: veRL's ``algorithm`` section; options under ``leaf``, see :class:`LeafOptions`.
        batch: holds ``responses`` ``[N, T]`` integer and ``rollout_log_probs`` ``[N, T]`` float, natural logarithms
            under the distribution that was sampled from. ``old_log_probs``, the actor's, serve where the engine returned
            none, and with ``surprisal=old``.

    Returns:
        ``(advantages, returns)``, the same tensor twice: ``[N, T]`` in the dtype of the rewards, 0 outside the mask.

    Raises:
        ValueError: an option is unknown, ``batch`` lacks a field, or a log-probability or reward is NaN.
    """
    global _last_step
    began = time.perf_counter()
    options = LeafOptions.parse(config)
    mask = response_mask.bool()
    log_probs = _log_probs(batch, options.surprisal)
    _refuse_nan("token_level_rewards", token_level_rewards.isnan(), index)
    _refuse_nan("log-probabilities", log_probs.isnan() & mask, index)

    rewards = token_level_rewards.sum(dim=-1)
    result = leaf_advantages(
        responses=batch["responses"],
        surprisal=-log_probs,
        rewards=rewards,
        mask=mask,
        group=_dense_groups(index, rewards.device),
        fork_budget=options.fork_budget,
        min_prefix_tokens=options.min_prefix_tokens,
        credit=options.credit,
    )
    advantages = result.advantages.to(token_level_rewards.dtype)
    metrics = {f"leaf/{name}": value for name, value in leaf_metrics(result, rewards, mask).items()}
    metrics["leaf/seconds"] = time.perf_counter() - began
    _last_step = LeafStep(batch["responses"], log_probs, mask, rewards, result, metrics)
    return advantages, advantages


def grpo_floored(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, config=None, **_
) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's GRPO baseline, ``algorithm.adv_estimator=grpo_floored``: ``(r - mean) / max(std, 1/3)``.

    Arguments, shapes and result as in :func:`leaf`; ``std`` is the unbiased one of the prompt's rewards.
    """
    rewards = token_level_rewards.sum(dim=-1)
    per_row = grpo_floored_advantages(rewards, _dense_groups(index, rewards.device))
    advantages = per_row.to(token_level_rewards.dtype).unsqueeze(-1) * response_mask
    return advantages, advantages


def take_step() -> LeafStep | None:
    """The last call of :func:`leaf`, once: ``None`` until the next."""
    global _last_step
    taken, _last_step = _last_step, None
    return taken


def _dense_groups(index, device) -> torch.Tensor:
    """``[N]`` int64 on ``device``: group numbers from 0 for any hashable entries."""
    numbers: dict = {}
    return torch.tensor([numbers.setdefault(entry, len(numbers)) for entry in index], device=device)


def _log_probs(batch: Mapping[str, torch.Tensor], surprisal: str) -> torch.Tensor:
    """The log-probabilities that the surprisal is taken from."""
    for field in ("rollout_log_probs", "old_log_probs")[surprisal == "old" :]:
        if batch.get(field) is not None and batch.get("responses") is not None:
            if field == "old_log_probs" and surprisal == "rollout":
                _warn_once("the engine returned no log-probabilities: LEAF takes the surprisal from old_log_probs")
            return batch[field]
    raise ValueError(
        f"leaf needs responses, and {'old_log_probs' if surprisal == 'old' else 'rollout_log_probs or old_log_probs'} in "
        f"its batch; it was given {', '.join(sorted(batch))}. veRL fills rollout_log_probs with "
        "actor_rollout_ref.rollout.calculate_log_probs=True"
    )


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _refuse_nan(name: str, is_nan: torch.Tensor, index) -> None:
    """Stop where ``is_nan`` ``[N, T]`` is True anywhere."""
    rows = is_nan.any(dim=-1).nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"{name} of row {rows[0]}, prompt {index[rows[0]]}, hold NaN ({len(rows)} of {len(is_nan)} rows do): the actor, "
            "the rollout engine or the reward has diverged"
        )
