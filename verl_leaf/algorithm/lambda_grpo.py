"""lambda-GRPO (ICML 2026, arXiv 2509.21154): GRPO, divided at each token by the number of responses that share it.

Read for this: the paper's abstract, summaries of it, and the authors' code (github.com/coli-saar/grpo-prm at 6bc58b1,
``InfPRMTree.loss_scales`` and ``LambdaGRPOTrainer``), whose weights `lambda_grpo_advantages` has. Not read: the paper's own
equations. Three things differ from the authors' code:

- it multiplies a token's whole loss by the weight, so also the token's KL term. verl's KL loss is apart from the
  advantages and keeps its weight;
- it adds 1e-4 to the standard deviation, where we add verl's 1e-6;
- a response that ends is in no longer prefix. In the authors' code it is compared with padding, which comes to the same.
"""

import torch
from torch import Tensor

from verl_leaf.algorithm.arguments import check_mask
from verl_leaf.algorithm.forks import ForkAdvantages, find_forks
from verl_leaf.algorithm.grpo import grpo_advantages
from verl_leaf.algorithm.rows import last_position, per_token


def lambda_grpo_advantages(
    responses: Tensor,
    rewards: Tensor,
    mask: Tensor,
    group: Tensor,
    *,
    lengths: Tensor | None = None,
) -> ForkAdvantages:
    """lambda-GRPO's advantages: GRPO's over the size of the token's *process set*.

        A_i[t] = (r_i - mean) / (std + 1e-6) / n_i(t)

    with ``n_i(t)`` the number of responses of the group whose first ``t + 1`` tokens are those of ``i``, itself included. So
    all responses that share a token together give it the mean of their advantages, and not their sum.

    Args:
        responses, rewards, mask, group, lengths: as in `grpo_prefix_advantages`.

    Returns:
        The advantages ``[N, T]``, 0 outside ``mask``, and the forks they come from.

    Raises:
        ValueError: an argument has a wrong rank, shape, dtype or range; the message names it.
    """
    check_mask(mask, responses)
    forks = find_forks(responses, last_position(mask) + 1 if lengths is None else lengths, group)
    shared = grpo_advantages(rewards.double(), group)[:, None] / forks.size
    start = torch.nn.functional.pad(forks.position[:, :-1], (1, 0))  # the token at which responses part is its branch's
    advantages = per_token(start, shared.to(rewards.dtype), forks.num_tokens)
    return ForkAdvantages(advantages.masked_fill_(mask == 0, 0), forks)
