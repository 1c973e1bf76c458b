"""Advantage estimators as pure functions of tensors: LEAF (arXiv 2606.07610) and others that it is compared with.

This package needs only torch. Its README.md contains the formulas. If an argument has a wrong rank, shape, dtype or
range, every function raises ValueError with the name of the argument.
"""

from verl_leaf.algorithm.early import PairSpread, early_metrics, early_share, pair_spread
from verl_leaf.algorithm.forks import find_forks, pad_groups
from verl_leaf.algorithm.grpo import grpo_advantages, grpo_floored_advantages
from verl_leaf.algorithm.lambda_grpo import lambda_grpo_advantages
from verl_leaf.algorithm.leaf import CREDITS, LeafAdvantages, credit_spans, leaf_advantages, token_advantages
from verl_leaf.algorithm.metrics import leaf_metrics
from verl_leaf.algorithm.prefix_baseline import grpo_prefix_advantages, shrinkage
from verl_leaf.algorithm.rows import last_position
from verl_leaf.algorithm.tempo import tempo_advantages
from verl_leaf.algorithm.tree import build_prefix_tree

__all__ = [
    "CREDITS",
    "LeafAdvantages",
    "PairSpread",
    "build_prefix_tree",
    "credit_spans",
    "early_metrics",
    "early_share",
    "find_forks",
    "grpo_advantages",
    "grpo_floored_advantages",
    "grpo_prefix_advantages",
    "lambda_grpo_advantages",
    "last_position",
    "leaf_advantages",
    "leaf_metrics",
    "pad_groups",
    "pair_spread",
    "shrinkage",
    "tempo_advantages",
    "token_advantages",
]
