"""The advantages that every estimator gives to the rollouts of a traced step, and ``early`` of its prompts."""

import inspect
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from verl_leaf.algorithm import PairSpread, early_share, find_forks, grpo_advantages, pad_groups, pair_spread
from verl_leaf.algorithm.estimators import ESTIMATORS, Rollouts
from verl_leaf.training.traces.schema import Prompt

# Estimator -> its name on the page, and its description. LEAF's advantages are in the trace.
VIEWS = {"leaf": ("LEAF", ""), "grpo": ("GRPO", "verl's GRPO: the z-score of the rewards")} | {
    name: (name, inspect.cleandoc(estimator.function.__doc__ or ""))
    for name, estimator in ESTIMATORS.items()
    if name != "leaf"
}


@dataclass(frozen=True)
class PromptAdvantages:
    """The values that are computed from a traced prompt."""

    grpo: list[float]  # advantage of each response under verl's `grpo`
    # Estimator -> response -> advantage of each token, for every estimator in the table except LEAF.
    tokens: dict[str, list[list[float]]]
    # `early` of the prompt (verl_leaf/algorithm/early.py). None if it is undefined, because all rewards are equal
    # or no responses stay together after the first fork.
    early: float | None


def step_advantages(prompts: list[Prompt]) -> list[PromptAdvantages]:
    """Return the advantages of a step's prompts, with the estimators' default options.

    All prompts are needed, because an estimator may use the whole batch, as ``grpo_prefix`` does for ``kappa``.
    """
    if not prompts:
        return []
    tokens, lengths, group = pad_groups(_tokens(prompts))
    responses = [response for prompt in prompts for response in prompt.responses]
    rewards = _rewards(prompts)
    mask = pad_sequence([torch.tensor(response.policy) for response in responses], batch_first=True).bool()
    nats = [[torch.inf if nats is None else nats for nats in response.surprisal] for response in responses]
    surprisal = pad_sequence([torch.tensor(row, dtype=torch.float64) for row in nats], batch_first=True)
    rollouts = Rollouts(tokens, mask, rewards, group, lengths, surprisal)
    advantages = {
        name: estimator.function(rollouts, estimator.options()).advantages
        for name, estimator in ESTIMATORS.items()
        if name != "leaf"
    }
    grpo = grpo_advantages(rewards, group)
    results = []
    for number, prompt in enumerate(prompts):
        rows = (group == number).nonzero().flatten().tolist()
        of_tokens = {name: [of[row, : int(lengths[row])].tolist() for row in rows] for name, of in advantages.items()}
        sums = spread_of(prompt).sums()
        results.append(PromptAdvantages(grpo[rows].tolist(), of_tokens, early_share(sums) if sums[2] else None))
    return results


def spread_of(prompt: Prompt) -> PairSpread:
    """Return the spread of a prompt's rewards over pairs, as that of a batch of one."""
    return pair_spread(find_forks(*pad_groups(_tokens([prompt]))), _rewards([prompt]))


def _tokens(prompts: list[Prompt]) -> list[list[list[int]]]:
    return [[response.tokens for response in prompt.responses] for prompt in prompts]


def _rewards(prompts: list[Prompt]) -> torch.Tensor:
    rewards = [response.reward for prompt in prompts for response in prompt.responses]
    return torch.tensor(rewards, dtype=torch.float64)
