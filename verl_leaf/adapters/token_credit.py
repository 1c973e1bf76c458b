"""The settings of all adapters, and the advantages of a step whose responses are spread over batches and processes.

Letters as in :mod:`verl_leaf.algorithm`: ``N`` responses of all processes, ``T`` tokens. A trainer's own tensors are
``[n, t]``: some of the rows, with a width that differs between batches, and responses that may start in any column.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import torch
from torch import Tensor

from verl_leaf.algorithm.estimators import ESTIMATORS, Options, Rollouts, no_estimator


@dataclass
class _Settings:
    estimator: str = field(default="leaf", metadata={"help": ", ".join(ESTIMATORS)})

    def options(self) -> Options:
        """Return the options of the estimator; raise ValueError if a setting of any estimator is not valid."""
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator={self.estimator!r}: {no_estimator(self.estimator, ESTIMATORS)}")
        options = {}
        for name, row in ESTIMATORS.items():
            values = {
                option.name: option.metadata["values"].read(getattr(self, option.name))
                for option in row.options.by_name().values()
                if not option.metadata["only_verl"]
            }
            options[name] = row.options(**values)
        return options[self.estimator]


EstimatorSettings: Any = make_dataclass(
    "EstimatorSettings",
    {
        option.name: (option.name, option.metadata["values"].type, field(default=option.default, metadata=help_of))
        for name, row in ESTIMATORS.items()
        for option in row.options.by_name().values()
        if not option.metadata["only_verl"]
        for help_of in [{"help": f"{name}: {option.metadata['help']}"}]
    }.values(),
    bases=(_Settings,),
    namespace={"__doc__": "The settings of every adapter, from the table of estimators.", "__module__": __name__},
)


def total_rewards(per_function: Tensor, weights: Tensor) -> Tensor:
    """Return ``[N]``, the weighted sum of ``per_function [N, F]`` without NaN; NaN if a row has only NaN."""
    total = (per_function * weights.to(per_function.device)).nansum(dim=1)
    return total.masked_fill(per_function.isnan().all(dim=1), torch.nan)


@dataclass(frozen=True)
class Responses:
    """Some responses in a trainer's own layout."""

    tokens: Tensor  # `[n, t]` integers; the tokens of a response are contiguous, from its first one in `mask`
    # `[n, t]` floats, `log p(token)` under the sampling distribution, for estimators that need the surprisal.
    log_probs: Tensor
    mask: Tensor  # `[n, t]`, non-zero where the policy wrote the token


def token_advantages(
    settings: _Settings,
    batches: Sequence[Responses],
    rewards: Tensor,
    group: Tensor,
    *,
    gather: Callable[[Tensor], Tensor] = lambda rows: rows,
    process: int = 0,
) -> tuple[list[Tensor], dict[str, float]]:
    """Compute the advantages of a step.

    Args:
        settings: estimator and its options.
        batches: responses of this process.
        rewards: ``[N]`` floats of all processes, in the order of ``gather``. A response with NaN has no reward: it is
            left out of its group and gets 0.
        group: ``[N]`` integers, the prompt of each response.
        gather: function that joins ``[n, ...]`` tensors of equal shape to ``[N, ...]``, in the order of the processes.

    Returns:
        The advantages of each batch, ``[n, t]`` in the dtype of ``rewards``, 0 outside its mask; and the metrics of the
            whole step, with the names that they have in verl.

    Raises:
        ValueError: a reward is infinite, or a log-probability is NaN. The message names the response.
    """
    widest = torch.tensor([max(batch.mask.shape[1] for batch in batches)], device=rewards.device)
    width = int(gather(widest).max())

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        rows = [torch.nn.functional.pad(rows, (0, width - rows.shape[1])) for rows in tensors]
        return gather(torch.cat(rows).contiguous())

    mask = joined([batch.mask.int() for batch in batches]).bool()
    tokens = joined([batch.tokens for batch in batches])
    log_probs = joined([batch.log_probs.float() for batch in batches])

    # Shift each row to the left, so that token t of every response is in column t; earlier columns move to the end.
    columns = (torch.arange(width, device=mask.device) + mask.int().argmax(1, keepdim=True)) % width
    tokens, log_probs, mask = (rows.gather(1, columns) for rows in (tokens, log_probs, mask))

    rewarded = ~rewards.isnan()
    _check(rewards, log_probs.isnan() & mask)
    advantages = torch.zeros(mask.shape, device=rewards.device, dtype=rewards.dtype)
    tokens, surprisal = tokens[rewarded], -log_probs[rewarded]
    rollouts = Rollouts(tokens, mask[rewarded], rewards[rewarded], group[rewarded], surprisal=surprisal)
    credit, metrics = ESTIMATORS[settings.estimator](rollouts, settings.options())
    advantages[rewarded] = credit.advantages
    advantages = torch.zeros_like(advantages).scatter(1, columns, advantages)

    counts = [len(batch.mask) for batch in batches]
    mine = advantages[process * sum(counts) :][: sum(counts)].split(counts)
    return [rows[:, : batch.mask.shape[1]].contiguous() for rows, batch in zip(mine, batches, strict=True)], metrics


def _check(rewards: Tensor, lost: Tensor) -> None:
    """Raise ``ValueError`` if one of ``rewards [N]`` is infinite, or a log-probability is missing in ``lost [N, T]``."""
    for row in rewards.isinf().nonzero().flatten().tolist():
        raise ValueError(
            f"the reward of response {row} of the step is {rewards[row].item()}. Check the reward function"
        )
    for row in lost.any(1).nonzero().flatten().tolist():
        raise ValueError(
            f"the log-probabilities of response {row} of the step contain NaN. The model or the engine that samples has diverged"
        )
