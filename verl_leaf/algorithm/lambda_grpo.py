"""lambda-GRPO (ICML 2026, arXiv 2509.21154): GRPO, divided at each token by the number of responses that share it.

Sources: the paper's abstract, summaries of it, and the authors' code (github.com/coli-saar/grpo-prm at 6bc58b1,
``InfPRMTree.loss_scales`` and ``LambdaGRPOTrainer``). `lambda_grpo_advantages` has the weights of that code. We have
not read the paper's own equations. Three things differ from the authors' code:

- It multiplies a token's whole loss by the weight, including the KL term. verl's KL loss is separate from the
  advantages and keeps its weight.
- It adds 1e-4 to the standard deviation; we add verl's 1e-6.
- A response that ends belongs to no longer prefix. The authors' code compares it with padding, which has the same effect.
"""

import torch
from torch import Tensor

from verl_leaf.algorithm.arguments import check_mask
from verl_leaf.algorithm.forks import ForkAdvantages, find_forks
from verl_leaf.algorithm.grpo import grpo_advantages
from verl_leaf.algorithm.rows import last_position, per_token


def lambda_grpo_advantages(
    responses: Tensor, rewards: Tensor, mask: Tensor, group: Tensor, *, lengths: Tensor | None = None
) -> ForkAdvantages:
    """Return lambda-GRPO's advantages: those of GRPO divided by the size of the token's *process set*.

        A_i[t] = (r_i - mean) / (std + 1e-6) / n_i(t)

    Here ``n_i(t)`` is the number of responses of the group, including ``i``, whose first ``t + 1`` tokens are those of
    ``i``. So the responses that share a token give it the mean of their advantages instead of the sum.

    Args:
        responses, rewards, mask, group, lengths: as in `grpo_prefix_advantages`.

    Returns:
        The advantages ``[N, T]``, 0 outside ``mask``, and the forks.
    """
    check_mask(mask, responses)
    forks = find_forks(responses, last_position(mask) + 1 if lengths is None else lengths, group)
    shared = grpo_advantages(rewards.double(), group)[:, None] / forks.size
    start = torch.nn.functional.pad(forks.position[:, :-1], (1, 0))  # the token at a fork belongs to its branch
    advantages = per_token(start, shared.to(rewards.dtype), forks.num_tokens)
    return ForkAdvantages(advantages.masked_fill_(mask == 0, 0), forks)
