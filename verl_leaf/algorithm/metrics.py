"""What a LEAF step did, in a few numbers, from what the step computed anyway."""

import torch
from torch import Tensor

from verl_leaf.algorithm.advantage import LeafAdvantages, grpo_floored_advantages

NOISE = 1e-9  # advantages this close to 0 have no sign


def leaf_metrics(result: LeafAdvantages, rewards: Tensor, policy_mask: Tensor) -> dict[str, float]:
    """Sums up a batch: how often responses forked, where, and what it changed against GRPO.

    A selected boundary fires when it has a node; it is usable when some node's rewards differ (arXiv 2606.07610).

    Args:
        result: what `leaf_advantages` returned.
        rewards: ``[N]`` floats, the rewards it was given.
        policy_mask: ``[N, T]``, the mask it was given.

    Returns:
        Plain floats; 0 where there is nothing to take a mean of:

        - ``boundaries_per_prompt``: selected boundaries a group
        - ``fired_share``: share of the selected boundaries with a node
        - ``usable_share``: share of the selected boundaries with a node whose rewards differ
        - ``node_size``: responses a node
        - ``boundary_position``: position of the selected boundaries, in tokens
        - ``boundary_position_relative``: the same, as a share of the length of the response that put it there
        - ``spans_per_response``: spans a response
        - ``sign_changed_share``: share of the policy's tokens whose advantage has the opposite sign of GRPO's
        - ``no_signal_share``: share of the groups whose rewards are all equal
    """
    tree, credit, advantages = result.advantages_tree_credit() if False else (result.tree, result.credit, result.advantages)
    raise NotImplementedError
