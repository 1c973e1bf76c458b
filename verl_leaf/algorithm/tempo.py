"""TEMPO (Findings of ACL 2026, arXiv 2509.18314), the nearest published method: GRPO, corrected where the tree branches.

Sources: the paper's abstract, summaries and reviews, and the advantage function of the authors' code
(github.com/fatebreaker/tempo at 0a1c273, `compute_tempo_outcome_advantage`), whose numbers `tempo_advantages`
reproduces. We have not read the paper's own equations. These sources leave some cases open, which are decided here:

- A response that ends is not a descendant of the longer prefixes. The authors' code compares padding like a token, which
  makes a difference only if another response continues with the padding token.
- A single response of a group, whose value is NaN in the authors' code, gets verl's GRPO, because nothing branches.
- Tokens that the policy did not write count in prefixes and get 0. In the authors' code a response ends at the first one.
"""

from torch import Tensor

from verl_leaf.algorithm.arguments import check_mask, check_terminal_rewards
from verl_leaf.algorithm.forks import ForkAdvantages, find_forks
from verl_leaf.algorithm.grpo import STD_EPSILON, centre, grpo_advantages
from verl_leaf.algorithm.rows import last_position


def tempo_advantages(
    responses: Tensor, rewards: Tensor, mask: Tensor, group: Tensor, *, lengths: Tensor | None = None
) -> ForkAdvantages:
    """Return TEMPO's advantages: those of GRPO plus the temporal difference of the tree's values.

        A_i[t] = (r_i - mean) / (std + 1e-6) + V(y_i[:t+1]) - V(y_i[:t])

    Here ``V(s)`` is the mean of ``r / (std + 1e-6)`` over the responses of the group that begin with ``s``, so that the
    difference is 0 unless responses part at token ``t``. ``mean`` and ``std`` (unbiased) are those of the group.

    Args:
        responses, rewards, mask, group, lengths: as in `grpo_prefix_advantages`.

    Returns:
        The advantages ``[N, T]``, 0 outside ``mask``, and the forks.
    """
    check_mask(mask, responses)
    forks = find_forks(responses, last_position(mask) + 1 if lengths is None else lengths, group)
    G = check_terminal_rewards(rewards, group)
    r, std, _ = centre(rewards, forks.group, G)
    value = forks.node_sum(r) / forks.size / (std[:, None] + STD_EPSILON)
    base = grpo_advantages(rewards.double(), group)[:, None]

    advantages = base.to(rewards.dtype).repeat(1, forks.num_tokens)
    row, depth = (forks.position < forks.num_tokens).nonzero(as_tuple=True)
    difference = value[row, depth + 1] - value[row, depth]
    advantages[row, forks.position[row, depth]] = (base[row, 0] + difference).to(rewards.dtype)
    return ForkAdvantages(advantages.masked_fill_(mask == 0, 0), forks)
