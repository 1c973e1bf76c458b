"""The LEAF algorithm (arXiv 2606.07610) as pure functions of tensors. Needs nothing but torch."""

from verl_leaf.algorithm.advantage import (
    CREDITS,
    LeafAdvantages,
    SpanCredit,
    grpo_floored_advantages,
    last_position,
    leaf_advantages,
    span_credit,
    token_advantages,
)
from verl_leaf.algorithm.metrics import leaf_metrics
from verl_leaf.algorithm.tree import PrefixTree, build_prefix_tree

__all__ = [
    "CREDITS",
    "LeafAdvantages",
    "PrefixTree",
    "SpanCredit",
    "build_prefix_tree",
    "grpo_floored_advantages",
    "last_position",
    "leaf_advantages",
    "leaf_metrics",
    "span_credit",
    "token_advantages",
]
