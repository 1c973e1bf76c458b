"""What the tree of a traced prompt says beside LEAF: what other estimators would have paid, and ``early``."""

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from verl_leaf.algorithm import (
    PairSpread,
    early_share,
    find_forks,
    grpo_advantages,
    grpo_prefix_advantages,
    pad_groups,
    pair_spread,
)
from verl_leaf.training.traces.schema import Prompt


@dataclass(frozen=True)
class Others:
    """What is computed of a prompt from its responses and rewards, without LEAF.

    Attributes:
        grpo: the advantage that verl's ``grpo`` pays each response.
        grpo_prefix: that of ``grpo_prefix`` for each response's tokens.
        early: of the prompt's own pairs (:mod:`verl_leaf.algorithm.early`); None where it cannot be told: all rewards are
            equal, or no responses go on together after the first fork.
    """

    grpo: list[float]
    grpo_prefix: list[list[float]]
    early: float | None


def others(prompts: list[Prompt]) -> list[Others]:
    """What estimators would have paid the same rollouts.

    Args:
        prompts: all of a step, since ``grpo_prefix`` takes its ``kappa`` from the whole batch.
    """
    if not prompts:
        return []
    responses, lengths, group = pad_groups(_tokens(prompts))
    rewards = _rewards(prompts)
    policy = [torch.tensor(response.policy) for prompt in prompts for response in prompt.responses]
    mask = pad_sequence(policy, batch_first=True)
    prefix = grpo_prefix_advantages(responses, rewards, mask, group, lengths=lengths)
    grpo = grpo_advantages(rewards, group)
    spread = pair_spread(prefix.forks, rewards)
    found = []
    for number in range(len(prompts)):
        rows = (group == number).nonzero().flatten().tolist()
        paid = [prefix.advantages[row, : int(lengths[row])].tolist() for row in rows]
        found.append(Others(grpo[rows].tolist(), paid, _early(_of_groups(spread, [number]))))
    return found


def spread_of(prompt: Prompt) -> PairSpread:
    """By how much the rewards of a prompt's pairs differ, as the spread of a batch of one."""
    return pair_spread(find_forks(*pad_groups(_tokens([prompt]))), _rewards([prompt]))


def _early(spread: PairSpread) -> float | None:
    return early_share(spread) if spread.first_pairs.sum() > 0 and spread.later_pairs.sum() > 0 else None


def _of_groups(spread: PairSpread, groups: list[int]) -> PairSpread:
    return PairSpread(
        spread.first[groups], spread.first_pairs[groups], spread.later[groups], spread.later_pairs[groups]
    )


def _tokens(prompts: list[Prompt]) -> list[list[list[int]]]:
    return [[response.tokens for response in prompt.responses] for prompt in prompts]


def _rewards(prompts: list[Prompt]) -> torch.Tensor:
    rewards = [response.reward for prompt in prompts for response in prompt.responses]
    return torch.tensor(rewards, dtype=torch.float64)
