"""The advantage estimators as verl calls them: unpack, compute, pack. The maths is in :mod:`verl_leaf.algorithm`."""

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import Self

from verl_leaf.algorithm import (
    Forks,
    LeafAdvantages,
    early_metrics,
    find_forks,
    grpo_floored_advantages,
    grpo_prefix_advantages,
    last_position,
    leaf_advantages,
    leaf_metrics,
    tempo_advantages,
)

logger = logging.getLogger("verl.leaf")  # verl gives its handler to the loggers below its own name only


class Options(BaseModel):
    """A section of ``algorithm`` in verl's configuration. A field's description says what values are valid."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    section: ClassVar[str]

    @classmethod
    def parse(cls, algorithm_config) -> Self:
        """Read the options from verl's ``algorithm`` section.

        Raises:
            ValueError: an option or a value is unknown; the message lists the valid ones.
        """
        given = algorithm_config.get(cls.section) if algorithm_config is not None else None
        if not isinstance(given, Mapping | None):
            raise ValueError(f"algorithm.{cls.section}={given!r}: must be a mapping of options to values")
        try:
            return cls.model_validate(dict(given or {}))
        except ValidationError as invalid:
            raise ValueError(cls._in_a_line(invalid)) from invalid

    @classmethod
    def _in_a_line(cls, invalid: ValidationError) -> str:
        first = invalid.errors()[0]
        unknown = sorted(str(error["loc"][0]) for error in invalid.errors() if error["type"] == "extra_forbidden")
        if unknown:
            return f"algorithm.{cls.section} has no option {', '.join(unknown)}; valid: {', '.join(cls.model_fields)}"
        name = str(first["loc"][0])
        valid = cls.model_fields[name].description
        return f"algorithm.{cls.section}.{name}={first['input']!r}: valid are {valid}"


class LeafOptions(Options):
    """``algorithm.leaf`` in verl's configuration."""

    section: ClassVar[str] = "leaf"

    # B, the most boundaries of a group
    fork_budget: int = Field(2, strict=True, ge=0, description="the integers from 0 on")
    # m, the earliest position that may be a boundary
    min_prefix_tokens: int = Field(1, strict=True, ge=0, description="the integers from 0 on")
    # global and local are for ablations
    credit: Literal["both", "global", "local"] = Field("both", description="both, global, local")
    # under the distribution that was sampled from, or under the actor's
    surprisal: Literal["rollout", "old"] = Field("rollout", description="rollout, old")
    # folder to write the trees of a step to, see verl_leaf.training.traces.writer
    trace_dir: str | None = Field(None, description="the path of a folder, and null")
    # steps from one trace to the next
    trace_every: int = Field(10, strict=True, ge=1, description="the integers from 1 on")


class GrpoPrefixOptions(Options):
    """``algorithm.grpo_prefix`` in verl's configuration."""

    section: ClassVar[str] = "grpo_prefix"

    # how many responses a longer prefix must have to count half; auto: what fits the batch
    kappa: Literal["auto"] | Annotated[float, Field(strict=True, ge=0)] = Field(
        "auto", description="auto, and the numbers from 0 on"
    )


@dataclass(frozen=True)
class LeafStep:
    """One call of :func:`leaf`: what it was given, and what it computed."""

    responses: torch.Tensor  # [N, T]
    log_probs: torch.Tensor  # [N, T]
    mask: torch.Tensor  # [N, T] bool
    rewards: torch.Tensor  # [N]
    result: LeafAdvantages


@dataclass(frozen=True)
class Step:
    """What an estimator has to say about a call: metrics under the tracker's names and, of LEAF, the trees."""

    metrics: dict[str, float]
    trees: LeafStep | None = None


Report = Callable[[Step], Any]


class RewardError(ValueError):
    """A reward is not finite.

    Attributes:
        row: of the batch, the first whose reward it is.
    """

    def __init__(self, message: str, row: int):
        super().__init__(message)
        self.row = row


def leaf(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config=None,
    *,
    batch: Mapping[str, torch.Tensor],
    report: Report | None = None,
    **_,
) -> tuple[torch.Tensor, torch.Tensor]:
    """LEAF advantages (arXiv 2606.07610), ``algorithm.adv_estimator=leaf``.

    Args:
        token_level_rewards: ``[N, T]`` float, their sum over a row is its terminal reward.
        response_mask: ``[N, T]``, 1 on tokens that the policy wrote, and that rejection sampling left in.
        index: ``[N]``, rows of one prompt have the same entry (verl's ``uid``).
        config: verl's ``algorithm`` section; options under ``leaf``, see :class:`LeafOptions`.
        batch: holds ``responses`` ``[N, T]`` integer and ``rollout_log_probs`` ``[N, T]`` float, natural logarithms
            under the distribution that was sampled from. ``old_log_probs``, the actor's, serve where the engine returned
            none, and with ``surprisal=old``. ``attention_mask`` ``[N, P + T]`` tells where responses end; without it, they
            end at the last token in ``response_mask``.
        report: is called with the :class:`Step`.

    Returns:
        ``(advantages, returns)``, the same tensor twice: ``[N, T]`` in the dtype of the rewards, 0 outside the mask.

    Raises:
        ValueError: an option is unknown, ``batch`` lacks a field, a log-probability is NaN or a reward not finite.
    """
    began = time.perf_counter()
    options = LeafOptions.parse(config)
    mask = response_mask.bool()
    log_probs = _log_probs(batch, options.surprisal)
    rewards, group = _rewards_and_group(token_level_rewards, index)
    _refuse_nan(log_probs.isnan() & mask, index)

    result = leaf_advantages(
        responses=batch["responses"],
        surprisal=-log_probs,
        rewards=rewards,
        mask=mask,
        group=group,
        lengths=_lengths(batch, mask),
        fork_budget=options.fork_budget,
        min_prefix_tokens=options.min_prefix_tokens,
        credit=options.credit,
    )
    seconds = time.perf_counter() - began
    if report is not None:
        metrics = {f"leaf/{name}": value for name, value in leaf_metrics(result, rewards, mask).items()}
        metrics["leaf/seconds"] = seconds
        metrics |= _fork_metrics(result.tree.forks, rewards)
        report(Step(metrics, LeafStep(batch["responses"], log_probs, mask, rewards, result)))
    return result.advantages, result.advantages


def grpo_floored(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config=None,
    *,
    batch: Mapping[str, torch.Tensor] | None = None,
    report: Report | None = None,
    **_,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's GRPO baseline, ``algorithm.adv_estimator=grpo_floored``: ``(r - mean) / max(std, 1/3)``.

    Arguments, shapes and result as in :func:`leaf`; ``std`` is the unbiased one of the prompt's rewards. ``batch`` is used
    for metrics alone.
    """
    rewards, group = _rewards_and_group(token_level_rewards, index)
    advantages = grpo_floored_advantages(rewards, group).unsqueeze(-1) * response_mask
    if report is not None and batch is not None:
        forks = find_forks(batch["responses"], _lengths(batch, response_mask), group)
        report(Step(_fork_metrics(forks, rewards)))
    return advantages, advantages


def grpo_prefix(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config=None,
    *,
    batch: Mapping[str, torch.Tensor],
    report: Report | None = None,
    **_,
) -> tuple[torch.Tensor, torch.Tensor]:
    """GRPO with a shrunk prefix baseline, ``algorithm.adv_estimator=grpo_prefix``.

    Arguments, shapes, result and errors as in :func:`leaf`, for options see :class:`GrpoPrefixOptions`; log-probabilities
    are not needed. The maths is in :func:`verl_leaf.algorithm.grpo_prefix_advantages`.
    """
    options = GrpoPrefixOptions.parse(config)
    rewards, group = _rewards_and_group(token_level_rewards, index)
    lengths = _lengths(batch, response_mask)
    result = grpo_prefix_advantages(
        batch["responses"], rewards, response_mask, group, lengths=lengths, kappa=options.kappa
    )
    if report is not None:
        report(Step({"grpo_prefix/kappa": result.kappa, **_fork_metrics(result.forks, rewards)}))
    return result.advantages, result.advantages


def tempo(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config=None,
    *,
    batch: Mapping[str, torch.Tensor],
    report: Report | None = None,
    **_,
) -> tuple[torch.Tensor, torch.Tensor]:
    """TEMPO (arXiv 2509.18314), ``algorithm.adv_estimator=tempo``.

    Arguments, shapes, result and errors as in :func:`leaf`; there are no options, and log-probabilities are not needed.
    The maths is in :func:`verl_leaf.algorithm.tempo_advantages`.
    """
    rewards, group = _rewards_and_group(token_level_rewards, index)
    lengths = _lengths(batch, response_mask)
    result = tempo_advantages(batch["responses"], rewards, response_mask, group, lengths=lengths)
    if report is not None:
        report(Step(_fork_metrics(result.forks, rewards)))
    return result.advantages, result.advantages


@dataclass(frozen=True)
class Estimator:
    """An estimator of ours.

    Attributes:
        compute: as verl calls it; a parameter ``batch`` brings it ``responses`` and what else verl has fetched, a
            parameter ``report`` a function that takes its :class:`Step`.
        options: its section of the configuration, if it has one.
    """

    compute: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    options: type[Options] | None = None

    def parse_options(self, algorithm_config) -> Options | None:
        """Its options in verl's ``algorithm`` section, if it has any.

        Raises:
            ValueError: see :meth:`Options.parse`.
        """
        return None if self.options is None else self.options.parse(algorithm_config)


ESTIMATORS = {
    "leaf": Estimator(leaf, LeafOptions),
    "grpo_floored": Estimator(grpo_floored),
    "grpo_prefix": Estimator(grpo_prefix, GrpoPrefixOptions),
    "tempo": Estimator(tempo),
}
"""What ``algorithm.adv_estimator`` may name beside verl's own: registered, checked and known to the doctor from here."""


def check_rewards(token_level_rewards: torch.Tensor, index: np.ndarray | None) -> None:
    """Stop unless all rewards are finite.

    Args:
        token_level_rewards: ``[N, T]`` float.
        index: ``[N]``, what the prompts are called; None if they are not.

    Raises:
        RewardError: the message names row, prompt and value.
    """
    wrong = ~token_level_rewards.isfinite()
    rows = wrong.any(dim=-1).nonzero().flatten().tolist()
    if rows:
        row = rows[0]
        prompt = "" if index is None else f", prompt {index[row]},"
        raise RewardError(
            f"the reward of row {row}{prompt} is {token_level_rewards[row][wrong[row]][0].item()}, not a finite number "
            f"({len(rows)} of {len(wrong)} rows have such a reward): the reward function, and a KL penalty in the reward, must give finite numbers",
            row,
        )


def _rewards_and_group(token_level_rewards: torch.Tensor, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Terminal rewards ``[N]``, checked, and the number ``[N]`` of each response's prompt."""
    check_rewards(token_level_rewards, index)
    rewards = token_level_rewards.sum(dim=-1)
    return rewards, _dense_groups(index, rewards.device)


def _fork_metrics(forks: Forks, rewards: torch.Tensor) -> dict[str, float]:
    """How early the rewards of this step are settled: the same metrics, by name too, whatever the estimator."""
    return {f"forks/{name}": value for name, value in early_metrics(forks, rewards).items()}


def _dense_groups(index, device) -> torch.Tensor:
    """``[N]`` int64 on ``device``: group numbers from 0 for any hashable entries."""
    numbers: dict = {}
    return torch.tensor([numbers.setdefault(entry, len(numbers)) for entry in index], device=device)


def _lengths(batch: Mapping[str, torch.Tensor], response_mask: torch.Tensor) -> torch.Tensor:
    """``[N]`` int64, everything up to the last token of each response, also of one that rejection sampling took out."""
    attended, T = batch.get("attention_mask"), response_mask.shape[1]
    return last_position(response_mask if attended is None else attended[:, attended.shape[1] - T :]) + 1


def _log_probs(batch: Mapping[str, torch.Tensor], surprisal: str) -> torch.Tensor:
    """The log-probabilities that the surprisal is taken from."""
    for field in ("rollout_log_probs", "old_log_probs")[surprisal == "old" :]:
        if batch.get(field) is not None and batch.get("responses") is not None:
            if field == "old_log_probs" and surprisal == "rollout":
                _warn_once("the engine returned no log-probabilities: LEAF takes the surprisal from old_log_probs")
            return batch[field]
    raise ValueError(
        f"leaf needs responses, and {'old_log_probs' if surprisal == 'old' else 'rollout_log_probs or old_log_probs'} in "
        f"its batch; it was given {', '.join(sorted(batch))}. verl fills rollout_log_probs with "
        "actor_rollout_ref.rollout.calculate_log_probs=True"
    )


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _refuse_nan(is_nan: torch.Tensor, index: np.ndarray) -> None:
    """Stop where ``is_nan`` ``[N, T]`` of the log-probabilities is True anywhere."""
    rows = is_nan.any(dim=-1).nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"log-probabilities of row {rows[0]}, prompt {index[rows[0]]}, hold NaN ({len(rows)} of {len(is_nan)} rows do): "
            "the actor or the rollout engine has diverged"
        )
