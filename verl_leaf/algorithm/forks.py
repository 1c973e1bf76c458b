"""The forks of a group's responses: every fork of their prefix tree, whatever its surprisal.

Letters: ``N`` responses in the batch, ``T`` tokens, ``G`` prompt groups of ``K`` responses, ``T_i`` the length of
response ``i``, ``S`` the most nodes on the path of one response.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verl_leaf.algorithm.arguments import check_responses
from verl_leaf.algorithm.rows import row_blocks

ENDED = torch.iinfo(torch.long).min  # stands for the missing token of a response that has ended


@dataclass(frozen=True)
class Forks:
    """The forks of the groups' prefix trees. Every tensor is int64 and on the device of the inputs.

    A node is a set of responses with a common prefix; the root is all responses of a group. A node forks at position ``p``
    if its responses share exactly ``p`` tokens: then they differ, or some have ended. The path of response ``i`` leads from
    the root, ``node[i, 0]``, through ever smaller nodes to one that does not fork.

    Attributes:
        group: ``[N]``, the group of each response.
        lengths: ``[N]``, ``T_i`` in tokens.
        node: ``[N, S]``, the nodes on the path, each named by its first row; the last one is repeated.
        size: ``[N, S]``, their number of responses.
        position: ``[N, S]``, where they fork, ascending; ``num_tokens`` if they do not fork, as in the last column.
        num_tokens: ``T``, the width of the batch.
    """

    group: Tensor
    lengths: Tensor
    node: Tensor
    size: Tensor
    position: Tensor
    num_tokens: int

    def node_sum(self, values: Tensor) -> Tensor:
        """Return ``[N, S]``, the sum of ``values [N]`` over the responses of each node."""
        total = torch.zeros(self.node.shape, device=values.device, dtype=values.dtype)
        return total.scatter_add_(0, self.node, values[:, None].expand_as(self.node)).gather(0, self.node)


@dataclass(frozen=True)
class ForkAdvantages:
    """The result of an estimator: ``advantages`` ``[N, T]``, and the forks of the responses."""

    advantages: Tensor
    forks: Forks


def find_forks(responses: Tensor, lengths: Tensor, group: Tensor) -> Forks:
    """Find every fork of the responses of a group. Token comparison is exact.

    Args:
        responses: ``[N, T]`` integers, token ids. Tokens after a response's end are ignored.
        lengths: ``[N]`` integers, ``T_i``: everything up to the last token of the response.
        group: ``[N]`` integers ``0 .. G-1``, the prompt of each response, in any order.
    """
    G = check_responses(responses, lengths, group)
    N, T = responses.shape
    group, lengths = group.long(), lengths.long()
    row = torch.arange(N, device=group.device)

    node = torch.full((G,), N, device=group.device).scatter_reduce_(0, group, row, "amin")[group]
    nodes, positions = [], []
    shared = torch.full_like(row, T)  # tokens shared with the response that names the node; T if it is equal
    joined = node != row
    # All nodes of one depth fork at once, each where the first of its responses differs from the one that names it.
    while True:
        rows = joined.nonzero()[:, 0]
        shared[rows] = _common_prefix(responses, lengths, rows, node[rows])
        position = torch.full_like(row, T).scatter_reduce_(0, node, shared, "amin")[node]
        nodes.append(node)
        positions.append(position)
        if bool((position == T).all()):
            break
        token = responses.gather(1, position.clamp(max=T - 1)[:, None])[:, 0].long()
        parent, node = node, _split(node, token.masked_fill(position >= lengths, ENDED))
        shared.masked_fill_(node != parent, T)
        joined = (node != parent) & (node != row)

    path = torch.stack(nodes, 1)
    size = torch.zeros_like(path).scatter_add_(0, path, torch.ones_like(path)).gather(0, path)
    return Forks(group, lengths, path, size, torch.stack(positions, 1), T)


def pad_groups(groups: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Convert lists of tokens, for each prompt those of its responses, to the arguments of `find_forks`.

    Returns:
        ``responses`` ``[N, T]``, ``lengths`` ``[N]`` and ``group`` ``[N]``, all int64, rows in the order of the lists.
    """
    rows = [torch.tensor(tokens, dtype=torch.long) for responses in groups for tokens in responses]
    lengths = torch.tensor([len(tokens) for tokens in rows], dtype=torch.long)
    counts = torch.tensor([len(responses) for responses in groups], dtype=torch.long)
    group = torch.repeat_interleave(torch.arange(len(groups)), counts)
    if not rows:
        return torch.empty((0, 0), dtype=torch.long), lengths, group
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, group


def _common_prefix(responses: Tensor, lengths: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Return ``[n]``, how many tokens ``rows [n]`` share with ``others [n]``; ``T`` if two responses are equal."""
    T = responses.shape[1]
    shared = torch.full_like(rows, T)
    for block in row_blocks(len(rows), T, rows.device) if T else ():
        differ, first = (responses[rows[block]] != responses[others[block]]).max(1)
        shared[block] = torch.where(differ, first, T)
    shorter, longer = torch.minimum(lengths[rows], lengths[others]), torch.maximum(lengths[rows], lengths[others])
    shared = torch.minimum(shared, shorter)
    return torch.where(shared == longer, T, shared)


def _split(node: Tensor, token: Tensor) -> Tensor:
    """Return ``[N]``, the first row with the same ``node`` and ``token`` as each row."""
    row = torch.arange(len(node), device=node.device)
    order = token.argsort(stable=True)
    order = order[node[order].argsort(stable=True)]
    a, b = order[:-1], order[1:]
    parts = torch.zeros_like(order)
    parts[1:] = (node[a] != node[b]) | (token[a] != token[b])
    part = torch.empty_like(order)
    part[order] = parts.cumsum(0)
    first = torch.full_like(order, len(order)).scatter_reduce_(0, part, row, "amin")
    return first[part]
