"""The prefix tree of a rollout group: where responses are cut, and which of them share the text before a cut.

Letters, as in arXiv 2606.07610: ``N`` responses in the batch, ``T`` tokens, ``G`` prompt groups of ``K`` responses,
``B`` boundaries (the fork budget), ``T_i`` the length of response ``i``, ``s_i[t]`` its surprisal at token ``t``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verl_leaf.algorithm.arguments import check, check_count, check_mask, check_responses
from verl_leaf.algorithm.forks import Forks, find_forks

FORK_BUDGET, MIN_PREFIX_TOKENS = 2, 1  # the paper's B and m


@dataclass(frozen=True)
class PrefixTree:
    """The trees of all groups in a batch. Every tensor is int64 and on the device of the inputs.

    A boundary ``p`` cuts every response before its token ``p``. A node is a set of two or more responses of a group
    that are identical before a boundary. Nodes are nested: a response that has a node at a boundary has one at every
    earlier boundary too, so the path of response ``i`` is ``node[i, :depth[i]]``.

    Attributes:
        forks: forks of the responses, at a boundary or not.
        boundaries: ``[G, B]``, the accepted positions in ascending order, then ``num_tokens`` if fewer than ``B``
            were accepted (no boundary can lie there).
        boundary_row: ``[G, B]``, the response whose surprisal selected the boundary; -1 if there is none.
        node: ``[N, B]``, the node of response ``i`` at boundary ``b``, named by its first response; -1 if there is none.
        size: ``[N, B]``, ``n(v)``, the number of responses in that node; 0 if there is none.
    """

    forks: Forks
    boundaries: Tensor
    boundary_row: Tensor
    node: Tensor
    size: Tensor

    @property
    def group(self) -> Tensor:
        """``[N]``, the group of each response."""
        return self.forks.group

    @property
    def lengths(self) -> Tensor:
        """``[N]``, ``T_i`` in tokens."""
        return self.forks.lengths

    @property
    def num_tokens(self) -> int:
        """``T``, the width of the batch."""
        return self.forks.num_tokens

    @property
    def depth(self) -> Tensor:
        """``[N]``, the number of nodes on each response's path."""
        return (self.node >= 0).sum(1)


def build_prefix_tree(
    responses: Tensor,
    surprisal: Tensor,
    lengths: Tensor,
    mask: Tensor,
    group: Tensor,
    *,
    fork_budget: int = FORK_BUDGET,
    min_prefix_tokens: int = MIN_PREFIX_TOKENS,
) -> PrefixTree:
    """Select the boundaries of every group, and find the nodes at them (arXiv 2606.07610).

    Response ``i`` scores boundary ``p`` with ``s_i[p]``, for ``max(1, m) <= p < T_i``. Pairs ``(i, p)`` are considered from
    the highest score down (ties: lower row first, then lower position); ``p`` is accepted if its distance is at least
    ``D = max(2, floor(T_min / (B + 1)))`` to every accepted one, until ``B`` are accepted. ``T_min`` is the
    shortest non-empty response of the group. At each boundary, responses whose first ``p`` tokens are identical (all
    tokens, for a response of ``p`` tokens or fewer) are a node if there are two or more. Token comparison is exact.

    Args:
        responses: ``[N, T]`` integers, token ids. Tokens after a response's end are ignored.
        surprisal: ``[N, T]`` floats, ``-log p(y_i[t])`` in nats. Compared in its own dtype. ``+inf`` is allowed and
            ``-inf`` is never a boundary; NaN must be rejected by the caller.
        lengths: ``[N]`` integers, ``T_i``: everything up to the last token of the response.
        mask: ``[N, T]``, non-zero where the policy wrote the token. Other tokens of a response (a tool's
            reply) count in prefixes and positions but are never a boundary.
        group: ``[N]`` integers ``0 .. G-1``, the prompt of each response, in any order.
        fork_budget: ``B``, the most boundaries a group may get; 0 selects none.
        min_prefix_tokens: ``m``, the earliest position that may be a boundary.
    """
    check_mask(mask, responses)
    shape = tuple(responses.shape)
    check("surprisal", surprisal.shape == shape, f"must have the shape {shape} of responses, got {surprisal.shape}")
    check("surprisal", surprisal.is_floating_point(), f"must contain floats, got {surprisal.dtype}")
    check_count("fork_budget", fork_budget)
    check_count("min_prefix_tokens", min_prefix_tokens)
    G = check_responses(responses, lengths, group)

    forks = find_forks(responses, lengths, group)
    boundaries, boundary_row = _select_boundaries(
        surprisal, forks.lengths, mask, forks.group, G, fork_budget, min_prefix_tokens
    )
    node, size = _find_nodes(forks, boundaries)
    return PrefixTree(forks, boundaries, boundary_row, node, size)


def _select_boundaries(
    surprisal: Tensor, lengths: Tensor, mask: Tensor, group: Tensor, G: int, B: int, m: int
) -> tuple[Tensor, Tensor]:
    """Select greedily up to ``B`` positions per group, as ``boundaries`` and ``boundary_row`` of `PrefixTree`."""
    N, T = surprisal.shape
    device = surprisal.device
    boundaries = torch.full((G, B), T, device=device)
    boundary_row = torch.full((G, B), -1, device=device)
    if B == 0 or N == 0 or T == 0:
        return boundaries, boundary_row

    not_empty = lengths.masked_fill(lengths == 0, T)
    shortest = torch.full((G,), T, device=device).scatter_reduce_(0, group, not_empty, "amin")
    distance = (shortest // (B + 1)).clamp(min=2)
    row = torch.arange(N, device=device)
    position = torch.arange(T, device=device, dtype=torch.int32)
    barred = ~mask.bool()
    barred |= position >= lengths[:, None].int()
    barred[:, : max(1, m)] = True
    score = surprisal.masked_fill(barred, -torch.inf)

    for b in range(min(B, T)):
        # The best position of each row (the first of equals), then the first row that reaches the group's best.
        best, at = score.max(dim=1)
        best = best.double()
        top = torch.full((G,), -torch.inf, device=device, dtype=best.dtype).scatter_reduce_(0, group, best, "amax")
        wins = (best == top[group]) & (best > -torch.inf)
        winner = torch.full((G,), N, device=device).scatter_reduce_(0, group, row.masked_fill(~wins, N), "amin")
        is_selected = winner < N
        chosen = at[winner.clamp(max=N - 1)]
        boundaries[:, b] = torch.where(is_selected, chosen, T)
        boundary_row[:, b] = torch.where(is_selected, winner, -1)
        if b + 1 < B:
            near = position > (chosen - distance).int()[group, None]
            near &= position < (chosen + distance).int()[group, None]
            score.masked_fill_(near, -torch.inf)

    boundaries, order = boundaries.sort(dim=1, stable=True)
    return boundaries, boundary_row.gather(1, order)


def _find_nodes(forks: Forks, boundaries: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sets of responses that are identical before each boundary, as ``node`` and ``size`` of `PrefixTree`."""
    before = boundaries[forks.group]
    depth = torch.searchsorted(forks.position, before)  # how often the path has forked before the boundary
    node, size = forks.node.gather(1, depth), forks.size.gather(1, depth)
    alone = (size < 2) | (before == forks.num_tokens) | (forks.lengths == 0)[:, None]
    return node.masked_fill(alone, -1), size.masked_fill(alone, 0)
