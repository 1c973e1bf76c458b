"""The rollouts of a prompt stay on one rank where prompts are shared.

verl/trainer/ppo/v1/trainer_base.py PPOTrainer._balance_batch (0.9.1) deals the rows of a batch out to the ranks by their
lengths, whichever prompt they belong to, and has no switch. A rank that gets the rollouts of one prompt computes it once;
that is worth more than equal lengths. Only with ``share_prompts``, and only with several ranks.
"""

import functools
from types import ModuleType

from verl_leaf.patches.base import expect, replaced
from verl_leaf.training.sharing import SHARE_PROMPTS


def _patch(trainer_base: ModuleType) -> str:
    given = ("self", "batch", "metrics", "logging_prefix", "keep_minibatch")
    original = expect(trainer_base, "PPOTrainer._balance_batch", *given)
    expect(trainer_base, "get_seqlen_balanced_partitions", "seqlen_list", "k_partitions", "equal_size")

    @functools.wraps(original)
    def balance_batch(self, *args, **kwargs):
        if not self.config.actor_rollout_ref.model.override_config.get(SHARE_PROMPTS, False):
            return original(self, *args, **kwargs)
        with replaced(trainer_base, "get_seqlen_balanced_partitions", in_order):
            return original(self, *args, **kwargs)

    trainer_base.PPOTrainer._balance_batch = balance_batch
    return "active: verl spreads the rollouts of a prompt over the ranks"


def in_order(seqlen_list: list[int], k_partitions: int, equal_size: bool) -> list[list[int]]:
    """Rows as they come, which is prompt by prompt, in equal parts."""
    size, left = divmod(len(seqlen_list), k_partitions)
    if left or not equal_size:
        raise ValueError(f"{len(seqlen_list)} rows cannot be dealt out equally to {k_partitions} ranks")
    return [list(range(rank * size, (rank + 1) * size)) for rank in range(k_partitions)]


HOOKS = {"verl.trainer.ppo.v1.trainer_base": _patch}
