"""GRPO with a shrunk prefix baseline, which we added; it is not in the LEAF paper.

The baseline of a token is the mean reward of the other responses with the same text before it, shrunk towards the
baseline of the shorter prefix. Related methods: leave-one-out baselines (RLOO, arXiv 2402.14740), values from rollouts
of the same prefix (VinePPO, arXiv 2410.01679; TEMPO, arXiv 2509.18314), and the shrinkage of James and Stein (1961).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verl_leaf.algorithm.arguments import check, check_mask, check_terminal_rewards, is_kappa
from verl_leaf.algorithm.early import Sums, pair_spread
from verl_leaf.algorithm.forks import Forks, find_forks
from verl_leaf.algorithm.grpo import STD_EPSILON, centre
from verl_leaf.algorithm.rows import last_position, per_token

PRIOR_PAIRS = 10  # tau2 is hardly reduced if n is much larger
LEAST_SIGMA2 = 0.05  # as a share of T


@dataclass(frozen=True)
class PrefixBaselineAdvantages:
    """The result of `grpo_prefix_advantages`.

    Attributes:
        advantages: ``[N, T]``, the advantages.
        baseline: ``[N, S]`` float64, ``b_i`` from the start and after each fork on the response's path.
        start: ``[N, S]`` int64, the first token with that baseline: 0, then the token after the fork's; ``num_tokens``
            if the path has no further fork, and the baseline is undefined.
        forks: forks of the responses.
        kappa: value of kappa that was used.
    """

    advantages: Tensor
    baseline: Tensor
    start: Tensor
    forks: Forks
    kappa: float


def grpo_prefix_advantages(
    responses: Tensor,
    rewards: Tensor,
    mask: Tensor,
    group: Tensor,
    *,
    lengths: Tensor | None = None,
    kappa: float | str = "auto",
    by_std: bool = True,
) -> PrefixBaselineAdvantages:
    """Return GRPO's advantages with the shrunk prefix baseline in place of the group's mean.

    For response ``i`` and its token ``t``, let ``u_i(t)`` be the responses ``k != i`` of its group whose first ``t``
    tokens are those of ``i``, ``m`` their number and ``V(u)`` their mean reward:

        b_i(0) = V(u_i(0)), the mean of the other K - 1
        b_i <- b_i + m / (m + kappa) * (V(u_i(t)) - b_i)    at each t where u_i(t) has lost members and m > 0
        A_i[t] = (r_i - b_i(t)) / (std + 1e-6)              std of the group's rewards, unbiased

    ``kappa=math.inf`` gives GRPO times ``K / (K - 1)``; ``kappa=0`` gives the leave-one-out mean of each node. A single
    response of a group gets 0.

    Args:
        responses: ``[N, T]`` integers, token ids.
        rewards: ``[N]`` floats, the terminal rewards ``r_i``.
        mask: ``[N, T]``, non-zero where the policy wrote the token. Other tokens of a response (a tool's reply) count in
            prefixes.
        group: ``[N]`` integers ``0 .. G-1``, the prompt of each response, in any order.
        lengths: ``[N]`` integers, ``T_i``. Without it, a response ends at the last token in ``mask``.
        kappa: number of responses with which a longer prefix gets half the weight, from 0 to infinity, or ``"auto"``
            for the batch's `shrinkage`.
        by_std: False to not divide by ``std + 1e-6``, as in Dr. GRPO (arXiv 2503.20783).

    Returns:
        The advantages ``[N, T]`` in the dtype of ``rewards``, 0 outside ``mask``, and the baselines that they come from.
    """
    check("kappa", is_kappa(kappa), f"must be auto or a number of 0 or more, got {kappa!r}")
    check_mask(mask, responses)
    forks = find_forks(responses, last_position(mask) + 1 if lengths is None else lengths, group)
    G = check_terminal_rewards(rewards, group)
    strength = shrinkage(pair_spread(forks, rewards).sums()) if isinstance(kappa, str) else float(kappa)

    r, std, _ = centre(rewards, forks.group, G)
    baseline = _baselines(forks, r, strength)
    value = torch.where(forks.size[:, :1] > 1, r[:, None] - baseline, 0)
    if by_std:
        value = value / (std[:, None] + STD_EPSILON)
    start = torch.nn.functional.pad((forks.position[:, :-1] + 1).clamp(max=forks.num_tokens), (1, 0))
    advantages = per_token(start, value.to(rewards.dtype), forks.num_tokens)
    advantages.masked_fill_(mask == 0, 0)
    return PrefixBaselineAdvantages(advantages, baseline + (rewards.double() - r)[:, None], start, forks, strength)


def _baselines(forks: Forks, r: Tensor, kappa: float) -> Tensor:
    """Return ``[N, S]``, ``b_i`` from the start and after each fork; 0 for a group of one."""
    m = (forks.size - 1).double()
    value = (forks.node_sum(r) - r[:, None]) / m.clamp(min=1)
    weight = torch.where(m[:, 1:] > 0, m[:, 1:] / (m[:, 1:] + kappa), 0)
    baselines = [value[:, 0]]
    for depth in range(weight.shape[1]):
        before = baselines[-1]
        baselines.append(before + weight[:, depth] * (value[:, depth + 1] - before))
    return torch.stack(baselines, 1)


def shrinkage(sums: Sums) -> float:
    """Return ``kappa``, the empirical Bayes ratio of the rewards' variance within a node to that between nodes.

        tau2 = max(0, T - W) * n / (n + 10)      sigma2 = max(T - tau2, 0.05 T)      kappa = sigma2 / tau2

    ``m / (m + kappa)`` is then the weight of a mean of ``m`` draws. It is infinite if ``tau2`` is 0. The sums over the
    pairs determine ``T``, ``W`` and ``n``.
    """
    first, later, pairs = sums
    tau2 = max(0.0, first - later) / (pairs + PRIOR_PAIRS)
    return max(first / pairs - tau2, LEAST_SIGMA2 * first / pairs) / tau2 if tau2 else math.inf
