"""The rollouts of a prompt stay on one rank where prompts are shared.

verl/trainer/ppo/v1/trainer_base.py PPOTrainer._balance_batch (0.9.1) deals the rows of a batch out to the ranks by their
lengths, whichever prompt they belong to, and has no switch. A rank that gets the rollouts of one prompt computes it once;
that is worth more than equal lengths. Only with ``share_prompts``, and only with several ranks.
"""

import functools

import wrapt

from verl_leaf.patches.base import STATUS, expect_parameters
from verl_leaf.sharing import SHARE_PROMPTS


def install() -> None:
    wrapt.when_imported("verl.trainer.ppo.v1.trainer_base")(_patch)


def _patch(module) -> None:
    original, by_length = module.PPOTrainer._balance_batch, module.get_seqlen_balanced_partitions
    expect_parameters(original, "self", "batch", "metrics", "logging_prefix", "keep_minibatch")
    expect_parameters(by_length, "seqlen_list", "k_partitions", "equal_size")

    @functools.wraps(original)
    def balance_batch(self, *args, **kwargs):
        if not self.config.actor_rollout_ref.model.override_config.get(SHARE_PROMPTS, False):
            return original(self, *args, **kwargs)
        module.get_seqlen_balanced_partitions = in_order
        try:
            return original(self, *args, **kwargs)
        finally:
            module.get_seqlen_balanced_partitions = by_length

    module.PPOTrainer._balance_batch = balance_batch
    STATUS["groups_together"] = "active: veRL spreads the rollouts of a prompt over the ranks"


def in_order(seqlen_list: list[int], k_partitions: int, equal_size: bool) -> list[list[int]]:
    """Rows as they come, which is prompt by prompt, in equal parts."""
    size, left = divmod(len(seqlen_list), k_partitions)
    if left or not equal_size:
        raise ValueError(f"{len(seqlen_list)} rows cannot be dealt out equally to {k_partitions} ranks")
    return [list(range(rank * size, (rank + 1) * size)) for rank in range(k_partitions)]
