"""LEAF: the credit of every span of a prefix tree, and the advantages of its tokens (arXiv 2606.07610)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from verl_leaf.algorithm.arguments import check, check_mask
from verl_leaf.algorithm.grpo import centre, from_lowest
from verl_leaf.algorithm.rows import last_position
from verl_leaf.algorithm.tree import FORK_BUDGET, MIN_PREFIX_TOKENS, PrefixTree, build_prefix_tree

CREDITS = ("both", "global", "local")  # the first is the default
STD_FLOOR = 1e-6


@dataclass(frozen=True)
class Spans:
    """The spans of every response. A response with ``d`` nodes on its path has its spans in the slots ``0 .. d``.

    Slot ``b < d`` ends at node ``b``. Slot ``d`` is the tail, if the response has tokens after its last node.

    Attributes:
        start: ``[N, B+1]`` int64, the first token of the span.
        end: ``[N, B+1]`` int64, the position after its last token. A node may lie past the end of a short response, and
            then so may ``start`` and ``end``.
        valid: ``[N, B+1]`` bool, True if there is such a span; the other fields are undefined if there is none.
        raw: ``[N, B+1]`` float64, the credit ``A``; 0 where not valid.
        normalised: ``[N, B+1]`` float64, the z-score of ``A`` over the spans of the group; 0 where not valid.
        node_value: ``[N, B]`` float64, ``V(v)`` of the nodes of the tree; 0 if there is none.
        root_value: ``[G]`` float64, ``V0``.
    """

    start: Tensor
    end: Tensor
    valid: Tensor
    raw: Tensor
    normalised: Tensor
    node_value: Tensor
    root_value: Tensor


@dataclass(frozen=True)
class LeafAdvantages:
    """The result of `leaf_advantages`: ``advantages`` ``[N, T]``, and the tree and spans that they come from."""

    advantages: Tensor
    tree: PrefixTree
    spans: Spans


def credit_spans(tree: PrefixTree, rewards: Tensor, *, credit: str = CREDITS[0]) -> Spans:
    """Return the credit of every span, computed from the rewards of all responses that continue from it.

    For the span that ends at node ``v``, with ``u`` the node before it on the path (the root if there is none):

        A = ([V(v) - V0] + [V(v) - V(u)]) / sqrt(n(v))

    and for the tail ``A = [r_i - V0] + [r_i - V(last)]``. ``credit="global"`` keeps only the first bracket, ``"local"``
    only the second; ``"both"`` is the method. The result is the z-score over all spans of the group, each (response,
    span) pair counted once, with the unbiased standard deviation floored at 1e-6. A single span scores 0.

    Args:
        tree: the groups' prefix trees.
        rewards: ``[N]`` floats, ``r_i``. Computed in float64.
        credit: ``"both"``, ``"global"`` or ``"local"``.
    """
    N, B = tree.node.shape
    G = tree.boundaries.shape[0]
    check("rewards", rewards.shape == (N,), f"must have the shape {(N,)}, got {tuple(rewards.shape)}")
    check("rewards", rewards.is_floating_point(), f"must contain floats, got {rewards.dtype}")
    check("credit", credit in CREDITS, f"must be one of {', '.join(CREDITS)}, got {credit!r}")
    group, depth = tree.group, tree.depth
    device = rewards.device

    r, lowest = from_lowest(rewards, group, G)
    count = torch.zeros_like(lowest).index_add_(0, group, torch.ones_like(r)).clamp(min=1)
    root = torch.zeros_like(lowest).index_add_(0, group, r) / count

    is_node = tree.node >= 0
    home = tree.node.clamp(min=0)
    total = torch.zeros((N, B), device=device, dtype=r.dtype)
    total.scatter_add_(0, home, r[:, None] * is_node)
    value = total.gather(0, home) / tree.size.clamp(min=1)

    # Slot s: the value V it ends at (r_i for the tail), the value before it, and n(v) (1 for the tail).
    slot = torch.arange(B + 1, device=device)
    is_tail = slot == depth[:, None]
    before = torch.cat([root[group][:, None], value], 1)
    after = torch.where(is_tail, r[:, None], torch.cat([value, r[:, None]], 1))
    siblings = torch.cat([tree.size, torch.ones_like(tree.group)[:, None]], 1).masked_fill(is_tail, 1).clamp(min=1)
    cuts = tree.boundaries[group]
    start = torch.cat([torch.zeros_like(tree.group)[:, None], cuts], 1)
    end = torch.where(is_tail, tree.lengths[:, None], torch.cat([cuts, tree.lengths[:, None]], 1))
    valid = (slot < depth[:, None]) | (is_tail & (end > start))

    bracket_global, bracket_local = after - before[:, :1], after - before
    raw = {"both": bracket_global + bracket_local, "global": bracket_global, "local": bracket_local}[credit]
    raw = (raw / siblings.double().sqrt()).masked_fill(~valid, 0)
    centred, std, _ = centre(raw[valid], group[:, None].expand_as(raw)[valid], G)
    normalised = torch.zeros_like(raw)
    normalised[valid] = centred / std.clamp(min=STD_FLOOR)
    node_value = (value + lowest[group][:, None]).masked_fill(~is_node, 0)
    return Spans(start, end, valid, raw, normalised, node_value, root + lowest)


def token_advantages(tree: PrefixTree, spans: Spans, mask: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return the normalised credit of every token's span.

    Args:
        tree: the groups' prefix trees.
        spans: spans of the trees.
        mask: ``[N, T]``, non-zero where the policy wrote the token.
        dtype: dtype of the result.

    Returns:
        ``[N, T]`` of ``dtype``: advantages, 0 outside ``mask`` and after a response's end.
    """
    N, B = tree.node.shape
    T = tree.num_tokens
    check("mask", mask.shape == (N, T), f"must have the shape {(N, T)}, got {tuple(mask.shape)}")
    value = spans.normalised.to(dtype)
    start = torch.where(spans.valid, spans.start, T).int()  # an absent span starts nowhere
    lengths = tree.lengths.int()
    position = torch.arange(T, device=value.device, dtype=torch.int32)
    advantages = value[:, :1].repeat(1, T)
    for b in range(1, B + 1):
        torch.where(position >= start[:, b, None], value[:, b, None], advantages, out=advantages)
    outside = position >= lengths[:, None]
    outside |= ~mask.bool()
    return advantages.masked_fill_(outside, 0)


def leaf_advantages(
    responses: Tensor,
    surprisal: Tensor,
    rewards: Tensor,
    mask: Tensor,
    group: Tensor,
    *,
    lengths: Tensor | None = None,
    fork_budget: int = FORK_BUDGET,
    min_prefix_tokens: int = MIN_PREFIX_TOKENS,
    credit: str = CREDITS[0],
) -> LeafAdvantages:
    """Return LEAF's advantages: `build_prefix_tree`, `credit_spans` and `token_advantages` (arXiv 2606.07610).

    Args:
        responses: ``[N, T]`` integers, token ids.
        surprisal: ``[N, T]`` floats, ``-log p(y_i[t])`` in nats.
        rewards: ``[N]`` floats, the terminal rewards ``r_i``.
        mask: ``[N, T]``, non-zero where the policy wrote the token.
        group: ``[N]`` integers ``0 .. G-1``, the prompt of each response, in any order.
        lengths: ``[N]`` integers, ``T_i``. By default, a response ends at the last token in ``mask``, which is right unless
            it ends with a token that the policy did not write.
        fork_budget, min_prefix_tokens: as in `build_prefix_tree`.
        credit: as in `credit_spans`.

    Returns:
        The advantages ``[N, T]`` in the dtype of ``rewards``, the tree and the spans.
    """
    check_mask(mask, responses)
    mask = mask.bool()
    if lengths is None:
        lengths = last_position(mask) + 1
    tree = build_prefix_tree(
        responses, surprisal, lengths, mask, group, fork_budget=fork_budget, min_prefix_tokens=min_prefix_tokens
    )
    spans = credit_spans(tree, rewards, credit=credit)
    return LeafAdvantages(token_advantages(tree, spans, mask, dtype=rewards.dtype), tree, spans)
