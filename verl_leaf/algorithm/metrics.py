"""Metrics of a LEAF step, from what the step has computed anyway."""

import torch
from torch import Tensor

from verl_leaf.algorithm.grpo import grpo_floored_advantages
from verl_leaf.algorithm.leaf import LeafAdvantages

NOISE = 1e-9  # advantages this close to 0 have no sign


def leaf_metrics(result: LeafAdvantages, rewards: Tensor, mask: Tensor) -> dict[str, float]:
    """Return metrics of a batch: how often and where responses forked, and how LEAF differs from GRPO.

    A selected boundary fires if it has a node; it is usable if the rewards of some node differ (arXiv 2606.07610).

    Args:
        result: result of `leaf_advantages`.
        rewards: ``[N]`` floats, the rewards that it was given.
        mask: ``[N, T]``, the mask that it was given.

    Returns:
        Floats by the names in the table of README.md; 0 if there is nothing to average.
    """
    tree, spans, advantages = result.tree, result.spans, result.advantages
    group, node, T = tree.group, tree.node, tree.num_tokens
    G, B = tree.boundaries.shape
    N = group.shape[0]

    def any_in_group(flag: Tensor) -> Tensor:
        """Return ``[G, ...]``, whether ``flag [N, ...]`` is true for any response of the group."""
        count = torch.zeros((G, *flag.shape[1:]), device=flag.device, dtype=torch.long)
        return count.index_add_(0, group, flag.long()) > 0

    is_node = node >= 0
    differ = _differ(rewards[:, None].expand(N, B), torch.where(is_node, node, N), N + 1)
    sizes = tree.size[node == torch.arange(N, device=group.device)[:, None]]  # each node once: its first response
    selected = tree.boundaries < T
    positions = tree.boundaries[selected]
    relative = positions / tree.lengths[tree.boundary_row[selected]]
    written = any_in_group(mask.bool().any(1))  # False for a prompt with which a trainer only fills up a batch
    prompts, responses = written.sum(), written[group]

    grpo = grpo_floored_advantages(rewards.double(), group)
    sign = grpo.sign().masked_fill(grpo.abs() < NOISE, 0).to(advantages.dtype)
    changed = torch.count_nonzero(advantages * sign[:, None] < -NOISE)

    means = {
        "boundaries_per_prompt": (selected.sum(), prompts),
        "fired_share": (any_in_group(is_node).sum(), selected.sum()),
        "usable_share": (any_in_group(is_node & differ).sum(), selected.sum()),
        "node_size": (sizes.sum(), sizes.numel()),
        "boundary_position": (positions.sum(), positions.numel()),
        "boundary_position_relative": (relative.sum(), positions.numel()),
        "spans_per_response": (spans.valid[responses].sum(), responses.sum()),
        "sign_changed_share": (changed, torch.count_nonzero(mask)),
        "no_signal_share": (prompts - (written & any_in_group(_differ(rewards, group, G))).sum(), prompts),
    }
    table = [torch.as_tensor(x, device=group.device).double() for pair in means.values() for x in pair]
    total, count = torch.stack(table).view(-1, 2).unbind(1)
    return dict(zip(means, (total / count.clamp(min=1)).tolist(), strict=True))


def _differ(values: Tensor, key: Tensor, size: int) -> Tensor:
    """Return for each entry of ``values`` whether the entries of its column with the same ``key < size`` differ."""
    high = torch.full((size, *values.shape[1:]), -torch.inf, device=values.device, dtype=values.dtype)
    low = -high
    high.scatter_reduce_(0, key, values, "amax")
    low.scatter_reduce_(0, key, values, "amin")
    return (high > low).gather(0, key)
