"""GRPO: every token of a response gets the z-score of its reward in the group (arXiv 2402.03300)."""

import torch
from torch import Tensor

from verl_leaf.algorithm.arguments import check, check_terminal_rewards

STD_EPSILON = 1e-6  # verl/trainer/ppo/core_algos.py, compute_grpo_outcome_advantage


def grpo_advantages(rewards: Tensor, group: Tensor) -> Tensor:
    """Return the advantages of verl's ``grpo``: ``(r - mean) / (std + 1e-6)`` in each group, ``std`` unbiased.

    A single response of a group gets ``r / (1 + 1e-6)``, as in verl 0.9.1 (``compute_grpo_outcome_advantage``).

    Args:
        rewards: ``[N]`` floats, ``r_i``.
        group: ``[N]`` integers ``0 .. G-1``, the prompt of each response, in any order.

    Returns:
        ``[N]`` of the dtype of ``rewards`` (float64 inside).
    """
    G = check_terminal_rewards(rewards, group)
    group = group.long()
    centred, std, size = centre(rewards, group, G)
    alone = size == 1
    advantages = torch.where(alone, rewards.double(), centred) / (torch.where(alone, 1, std) + STD_EPSILON)
    return advantages.to(rewards.dtype)


def grpo_floored_advantages(rewards: Tensor, group: Tensor, *, floor: float = 1 / 3) -> Tensor:
    """Return the GRPO baseline of arXiv 2606.07610: ``(r - mean) / max(std, 1/3)`` in each group, ``std`` unbiased.

    Args:
        rewards, group: as in `grpo_advantages`.
        floor: the least standard deviation.

    Returns:
        ``[N]`` of the dtype of ``rewards`` (float64 inside); 0 for a single response of a group.
    """
    G = check_terminal_rewards(rewards, group)
    check("floor", floor > 0, f"must be above 0, got {floor!r}")
    centred, std, _ = centre(rewards, group.long(), G)
    return (centred / std.clamp(min=floor)).to(rewards.dtype)


def from_lowest(rewards: Tensor, group: Tensor, G: int) -> tuple[Tensor, Tensor]:
    """Return the rewards ``[N]`` minus their group's lowest, and the lowest ``[G]``, both in float64.

    So equal rewards are centred to exactly 0. The lowest of a group without responses is infinite.
    """
    rewards = rewards.double()
    lowest = torch.full((G,), torch.inf, device=rewards.device, dtype=rewards.dtype)
    lowest.scatter_reduce_(0, group, rewards, "amin")
    return rewards - lowest[group], lowest


def centre(rewards: Tensor, group: Tensor, G: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return statistics of the rewards in each response's group, in float64.

    Args:
        rewards: ``[N]`` floats.
        group: ``[N]`` int64 ``0 .. G-1``.
        G: number of groups.

    Returns:
        ``[N]`` each: the reward minus the group's mean, exactly 0 if all are equal; the unbiased standard deviation of the
            group, 0 for a group of one; and the group's number of responses.
    """

    def per_row(x: Tensor) -> Tensor:
        return torch.zeros(G, device=x.device, dtype=x.dtype).index_add_(0, group, x)[group]

    r, _ = from_lowest(rewards, group, G)
    size = per_row(torch.ones_like(group))
    centred = r - per_row(r) / size
    std = (per_row(centred.square()) / (size - 1).clamp(min=1)).sqrt()
    return centred, std, size
