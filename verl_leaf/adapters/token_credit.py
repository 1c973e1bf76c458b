"""What all adapters share: their settings, and the advantages of a step whose responses lie in several places.

Letters as in :mod:`verl_leaf.algorithm`: ``N`` responses of all processes, ``T`` tokens. A trainer's own tensors are
``[n, t]``: some rows, of another width in each batch, and the responses may begin in any column.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verl_leaf.algorithm import (
    CREDITS,
    Forks,
    check_kappa,
    early_metrics,
    find_forks,
    grpo_floored_advantages,
    grpo_prefix_advantages,
    last_position,
    leaf_advantages,
    leaf_metrics,
    tempo_advantages,
)

Computed = tuple[Tensor, dict[str, float]]  # advantages [N, T], metrics


@dataclass
class Settings:
    """What every adapter can be told; the defaults are those of verl's side."""

    estimator: str = field(default="leaf", metadata={"help": "leaf, grpo_prefix, tempo or grpo_floored"})
    fork_budget: int = field(default=2, metadata={"help": "leaf: the most boundaries per prompt"})
    min_prefix_tokens: int = field(default=1, metadata={"help": "leaf: the earliest position of a boundary"})
    credit: str = field(default="both", metadata={"help": "leaf: both, global or local"})
    kappa: str = field(
        default="auto",
        metadata={"help": "grpo_prefix: how many responses a longer prefix must have to count half; auto or a number"},
    )

    def check_settings(self) -> None:
        """Raises ``ValueError`` where a value is not valid; the message names the valid ones."""
        for name, valid in (("estimator", tuple(ESTIMATORS)), ("credit", CREDITS)):
            if getattr(self, name) not in valid:
                raise ValueError(f"{name}={getattr(self, name)!r}: valid are {', '.join(valid)}")
        for name in ("fork_budget", "min_prefix_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name}={value!r}: valid are the integers from 0 on")
        try:
            check_kappa(kappa_of(self))
        except ValueError:
            raise ValueError(f"kappa={self.kappa!r}: valid are auto and the numbers from 0 on") from None


def kappa_of(settings: Settings) -> float | str:
    """The setting as `grpo_prefix_advantages` takes it; ``ValueError`` where it is no number."""
    return "auto" if settings.kappa == "auto" else float(settings.kappa)


def refuse(problems: Mapping[str, bool]) -> None:
    """Raises ``ValueError`` with the names of the problems that there are."""
    found = [name for name, there in problems.items() if there]
    if found:
        raise ValueError(f"verl-leaf does not go with these settings: {'; '.join(found)}")


def total_rewards(per_function: Tensor, weights: Tensor) -> Tensor:
    """``[N]``, the weighted sum of ``per_function [N, F]``, in which NaN is no reward; NaN where a row has none."""
    total = (per_function * weights.to(per_function.device)).nansum(dim=1)
    return total.masked_fill(per_function.isnan().all(dim=1), torch.nan)


@dataclass(frozen=True)
class Responses:
    """Some responses as a trainer holds them.

    Attributes:
        tokens: ``[n, t]`` integers; a response's lie together, from its first in ``mask`` on.
        log_probs: ``[n, t]`` floats, ``log p(token)`` under the distribution that was sampled from; only `leaf` looks.
        mask: ``[n, t]``, non-zero where the policy wrote the token.
    """

    tokens: Tensor
    log_probs: Tensor
    mask: Tensor


def token_advantages(
    settings: Settings,
    batches: Sequence[Responses],
    rewards: Tensor,
    group: Tensor,
    *,
    gather: Callable[[Tensor], Tensor] = lambda rows: rows,
    process: int = 0,
) -> tuple[list[Tensor], dict[str, float]]:
    """The advantages of a step.

    Args:
        settings: which estimator, and how.
        batches: the responses of this process.
        rewards: ``[N]`` floats of all processes, in the order of ``gather``. NaN: the response has none, is left out of
            its group, and gets 0.
        group: ``[N]`` integers, the prompt of each response.
        gather: joins ``[n, ...]`` tensors of equal shape of all processes to ``[N, ...]``, in the order of processes.
        process: the number of this one.

    Returns:
        The advantages of each batch, ``[n, t]`` in the dtype of ``rewards``, 0 outside its mask; and the metrics of the
        whole step, by the names that verl's side logs.

    Raises:
        ValueError: a reward is infinite, or a log-probability NaN; the message names the response.
    """
    widest = torch.tensor([max(batch.mask.shape[1] for batch in batches)], device=rewards.device)
    width = int(gather(widest).max())

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        rows = [torch.nn.functional.pad(rows, (0, width - rows.shape[1])) for rows in tensors]
        return gather(torch.cat(rows).contiguous())

    mask = joined([batch.mask.int() for batch in batches]).bool()
    tokens = joined([batch.tokens for batch in batches])
    log_probs = joined([batch.log_probs.float() for batch in batches])

    # To the left, so that token t of every response lies in column t; what stood before it goes to the end.
    columns = (torch.arange(width, device=mask.device) + mask.int().argmax(1, keepdim=True)) % width
    tokens, log_probs, mask = (rows.gather(1, columns) for rows in (tokens, log_probs, mask))

    rewarded = ~rewards.isnan()
    _check(rewards, log_probs.isnan() & mask)
    advantages = torch.zeros(mask.shape, device=rewards.device, dtype=rewards.dtype)
    advantages[rewarded], metrics = ESTIMATORS[settings.estimator](
        settings, *(rows[rewarded] for rows in (tokens, log_probs, rewards, mask, group))
    )
    advantages = torch.zeros_like(advantages).scatter(1, columns, advantages)

    counts = [len(batch.mask) for batch in batches]
    mine = advantages[process * sum(counts) :][: sum(counts)].split(counts)
    return [rows[:, : batch.mask.shape[1]].contiguous() for rows, batch in zip(mine, batches, strict=True)], metrics


def _check(rewards: Tensor, lost: Tensor) -> None:
    """Raises ``ValueError`` where one of ``rewards [N]`` is infinite, or a log-probability ``lost [N, T]``."""
    for row in rewards.isinf().nonzero().flatten().tolist():
        raise ValueError(f"the reward of response {row} of the step is {rewards[row].item()}, not a finite number")
    for row in lost.any(1).nonzero().flatten().tolist():
        raise ValueError(
            f"log-probabilities of response {row} of the step hold NaN: the model or the engine that samples has diverged"
        )


def _leaf(
    settings: Settings, tokens: Tensor, log_probs: Tensor, rewards: Tensor, mask: Tensor, group: Tensor
) -> Computed:
    began = time.perf_counter()
    result = leaf_advantages(
        tokens,
        -log_probs,
        rewards,
        mask,
        group,
        fork_budget=settings.fork_budget,
        min_prefix_tokens=settings.min_prefix_tokens,
        credit=settings.credit,
    )
    seconds = time.perf_counter() - began
    metrics = {f"leaf/{name}": value for name, value in leaf_metrics(result, rewards, mask).items()}
    return result.advantages, {**metrics, "leaf/seconds": seconds, **_fork_metrics(result.tree.forks, rewards)}


def _grpo_prefix(
    settings: Settings, tokens: Tensor, log_probs: Tensor, rewards: Tensor, mask: Tensor, group: Tensor
) -> Computed:
    result = grpo_prefix_advantages(tokens, rewards, mask, group, kappa=kappa_of(settings))
    return result.advantages, {"grpo_prefix/kappa": result.kappa, **_fork_metrics(result.forks, rewards)}


def _tempo(
    settings: Settings, tokens: Tensor, log_probs: Tensor, rewards: Tensor, mask: Tensor, group: Tensor
) -> Computed:
    result = tempo_advantages(tokens, rewards, mask, group)
    return result.advantages, _fork_metrics(result.forks, rewards)


def _grpo_floored(
    settings: Settings, tokens: Tensor, log_probs: Tensor, rewards: Tensor, mask: Tensor, group: Tensor
) -> Computed:
    forks = find_forks(tokens, last_position(mask) + 1, group)
    return grpo_floored_advantages(rewards, group)[:, None] * mask, _fork_metrics(forks, rewards)


def _fork_metrics(forks: Forks, rewards: Tensor) -> dict[str, float]:
    return {f"forks/{name}": value for name, value in early_metrics(forks, rewards).items()}


ESTIMATORS = {"leaf": _leaf, "grpo_prefix": _grpo_prefix, "tempo": _tempo, "grpo_floored": _grpo_floored}
