"""The share of the reward variance within a prompt that the first fork decides: ``early = 1 - W / T``.

We added this measure; it is not in the LEAF paper. A pair of responses ``i``, ``k`` of a group has ``h = (r_i - r_k)^2
/ 2``. Let the values of a group's branches have the variance ``tau2``, and the rewards within a branch the variance
``sigma2``. Then the mean of ``h`` is ``tau2 + sigma2`` over the ``n_T`` pairs that part at the group's first fork
(their common prefix is the group's shortest), and ``sigma2`` over the ``n_W`` pairs that part later. ``T`` and ``W``
are means of these over groups, both weighted by ``n_T n_W / (n_T + n_W)``, so prompts may differ in reward variance and
in their forks. ``early`` estimates ``tau2 / (tau2 + sigma2)``. If the first choice decides nothing, it is 0 on average
and may be negative.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verl_leaf.algorithm.arguments import check, check_terminal_rewards
from verl_leaf.algorithm.forks import Forks
from verl_leaf.algorithm.grpo import centre

LEAST_VARIANCE = 1e-12  # rewards of a group with a smaller variance count as equal
Sums = tuple[float, float, float]
"""The sums of `PairSpread` over some groups: ``n T``, ``n W`` and ``n``, the sum of the groups' weights."""


@dataclass(frozen=True)
class PairSpread:
    """The sums over the pairs of each group; 0 if its rewards do not differ, or no pair parts after the first fork.

    For any selection of groups, also with repetition, `early_share` of the sums over it is its ``early``.

    Attributes:
        first: ``[G]`` float64, the mean of ``h`` over the pairs that part at the first fork, times ``pairs``.
        later: ``[G]`` float64, the mean of ``h`` over the pairs that part later, or never, times ``pairs``.
        pairs: ``[G]`` float64, the weight of the group: the difference of its two means has about the variance of a
            mean over this many pairs.
    """

    first: Tensor
    later: Tensor
    pairs: Tensor

    def sums(self) -> Sums:
        """Return the sums over all groups."""
        first, later, pairs = torch.stack([self.first, self.later, self.pairs]).sum(1).tolist()
        return first, later, pairs


def pair_spread(forks: Forks, rewards: Tensor) -> PairSpread:
    """Return how much the rewards of each group's pairs differ.

    Args:
        forks: forks of the responses.
        rewards: ``[N]`` floats, ``r_i``. Computed in float64.
    """
    check("rewards", rewards.shape == forks.group.shape, f"must have the shape {tuple(forks.group.shape)}")
    G = check_terminal_rewards(rewards, forks.group)
    centred, std, size = centre(rewards, forks.group, G)
    differ = std.square() > LEAST_VARIANCE
    size = size.double()

    def per_group(x: Tensor) -> Tensor:
        return torch.zeros(G, device=x.device, dtype=x.dtype).index_add_(0, forks.group, x)

    # Within any set of n, the sum over pairs of (r_i - r_k)^2 / 2 is n / 2 times the sum of (r_i - mean)^2.
    branch = min(1, forks.node.shape[1] - 1)  # the node after the first fork, or the root if there is none
    n = forks.size[:, branch].double()
    from_mean = centred - forks.node_sum(centred)[:, branch] / n
    # Responses that end at the group's first fork share no longer prefix, even if they are equal.
    parted = differ & (n < size) & (forks.lengths > forks.position[:, 0])
    later, n_W = per_group(n / 2 * from_mean.square() * parted), per_group((n - 1) / 2 * parted)
    total, all_pairs = per_group(size / 2 * centred.square()), per_group((size - 1) / 2).clamp(min=1)
    share = n_W / all_pairs
    return PairSpread((total - later) * share, later * (1 - share), n_W * (1 - share))


def early_share(sums: Sums) -> float:
    """Return ``early = 1 - W / T``; 0 if no pair parts later, or the pairs that part first do not differ."""
    first, later, _ = sums
    return 1 - later / first if first else 0.0


def early_metrics(forks: Forks, rewards: Tensor) -> dict[str, float]:
    """Return ``early`` and ``early_pairs`` (``n``) of a step, for the log of any estimator.

    Its arguments are those of `pair_spread`.
    """
    sums = pair_spread(forks, rewards).sums()
    return {"early": early_share(sums), "early_pairs": sums[2]}
