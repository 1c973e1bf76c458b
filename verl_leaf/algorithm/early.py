"""How much of what rewards differ by is settled where responses first part: ``early = 1 - W / T``.

Ours, not the paper's. Over the groups whose rewards differ, each pair of responses ``i``, ``k`` has
``h = (r_i - r_k)^2 / 2 / variance`` of its group (unbiased), which is 1 on average over all pairs of a group. Pairs
that part where the group first parts (their common prefix is the group's shortest) have the mean ``T``, pairs that part
later the mean ``W``. Where the first choice settles the reward, those that chose alike differ little: ``early`` is near
1. Where it settles nothing, ``W = T`` on average and ``early`` is 0, or by chance below.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verl_leaf.algorithm.arguments import check, check_terminal_rewards
from verl_leaf.algorithm.forks import Forks
from verl_leaf.algorithm.grpo import centre

LEAST_VARIANCE = 1e-12  # of a group's rewards, for them to differ


@dataclass(frozen=True)
class PairSpread:
    """Sums of ``h`` and numbers of pairs of each group, 0 where its rewards do not differ.

    Any selection of groups, drawn with replacement or not, has the `early_share` of the sums over it.

    Attributes:
        first: ``[G]`` float64, the sum of ``h`` over the pairs that part where the group first parts.
        first_pairs: ``[G]`` float64, their number.
        later: ``[G]`` float64, the sum of ``h`` over the pairs that part later, or never.
        later_pairs: ``[G]`` float64, their number.
    """

    first: Tensor
    first_pairs: Tensor
    later: Tensor
    later_pairs: Tensor

    def means(self) -> tuple[float, float, float]:
        """``T``, ``W`` and ``N_W`` (the number of pairs that part later) over all groups; a mean of no pairs is 0."""
        sums = torch.stack([self.first, self.first_pairs, self.later, self.later_pairs]).sum(1).tolist()
        return sums[0] / max(sums[1], 1), sums[2] / max(sums[3], 1), sums[3]


def pair_spread(forks: Forks, rewards: Tensor) -> PairSpread:
    """Sums up, for each group, by how much the rewards of its pairs differ.

    Args:
        forks: where the responses part.
        rewards: ``[N]`` floats, ``r_i``. Computed with in float64.

    Returns:
        The `PairSpread` of the groups.

    Raises:
        ValueError: ``rewards`` has a wrong shape or dtype.
    """
    check("rewards", rewards.shape == forks.group.shape, f"must have the shape {tuple(forks.group.shape)}")
    G = check_terminal_rewards(rewards, forks.group)
    centred, std, size = centre(rewards, forks.group, G)
    differ = std.square() > LEAST_VARIANCE
    scaled = torch.where(differ, centred / std, 0)
    size = size.double()

    def per_group(x: Tensor) -> Tensor:
        return torch.zeros(G, device=x.device, dtype=x.dtype).index_add_(0, forks.group, x)

    # Within any set of n, the sum over pairs of (r_i - r_k)^2 / 2 is n / 2 times the sum of (r_i - mean)^2.
    branch = min(1, forks.node.shape[1] - 1)  # the node after the first fork, or the root where none forks
    n = forks.size[:, branch].double()
    from_mean = scaled - forks.node_sum(scaled)[:, branch] / n
    # Responses that end where the group first parts share no longer prefix, though they may be the same.
    parted = differ & (n < size) & (forks.lengths > forks.position[:, 0])
    later, later_pairs = per_group(n / 2 * from_mean.square() * parted), per_group((n - 1) / 2 * parted)
    total, pairs = per_group(size / 2 * scaled.square()), per_group((size - 1) / 2 * differ)
    return PairSpread(total - later, pairs - later_pairs, later, later_pairs)


def early_share(spread: PairSpread) -> float:
    """``early = 1 - W / T``; 0 where no pair parts later."""
    T, W, N_W = spread.means()
    return 1 - W / T if N_W else 0.0


def early_metrics(forks: Forks, rewards: Tensor) -> dict[str, float]:
    """Return ``early`` and ``early_pairs`` (``N_W``) of a step, for the log of any estimator.

    The arguments, and what is raised, are those of `pair_spread`.
    """
    spread = pair_spread(forks, rewards)
    return {"early": early_share(spread), "early_pairs": float(spread.later_pairs.sum())}
