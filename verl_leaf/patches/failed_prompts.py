"""Prompts that fail cost the run no more than themselves, and are counted.

When a rollout fails, verl's sync trainer goes on with what there is, says nothing in the metrics, and stops with an error
that names no reason where nothing is left (verl/trainer/ppo/v1/replay_buffer.py ReplayBuffer.sample, 0.9.1; at
validation TransferQueue's "Received an empty list as keys"). A sampler of one's own would have to bring its own
``filter_groups``, so verl's is wrapped. In the asynchronous modes verl replaces and counts failed prompts itself. With
recipes/upstream/3_failed_prompts in it, it counts them in the sync mode, too, and still goes on.
"""

import functools
from collections import Counter
from types import ModuleType

from verl_leaf.common.names import FAILURE_REASON
from verl_leaf.patches.base import expect, says

UPSTREAM = "rollout_failure/sampled_prompts"  # verl's own count, once recipes/upstream/3_failed_prompts is in it
SOLVED = "active: stops a run that loses too many, with the reasons; the count is solved upstream"
MAX_FAILED_SHARE = 0.05  # trainer.v1.sampler.sampler_kwargs.max_failed_share
AT_LEAST = 100  # prompts that the share is taken of


class TooManyFailedPromptsError(RuntimeError):
    """More prompts have failed than the run allows."""


class FailureCounts:
    """The prompts of one replay buffer: how many there were, how many failed, and why."""

    def __init__(self):
        self.prompts: Counter[str] = Counter()  # by partition
        self.failed: Counter[str] = Counter()  # by partition
        self.reasons: Counter[str] = Counter()
        self.failed_in_batch = 0

    def add(self, partition: str, prompts: int, reasons: list[str]) -> None:
        """Count a batch, with a reason for each of its prompts that failed."""
        self.prompts[partition] += prompts
        self.failed[partition] += len(reasons)
        self.reasons.update(reasons)
        self.failed_in_batch = len(reasons)

    def stop_if_too_many(self, partition: str, prompts: int, nothing_left: bool, max_share: float) -> None:
        """Stop where a partition has lost too many of its prompts, or a batch all of its.

        Raises:
            TooManyFailedPromptsError: the message counts the reasons.
        """
        failed, seen = self.failed[partition], self.prompts[partition]
        if self.failed_in_batch and (nothing_left or failed > max_share * max(seen, AT_LEAST)):
            reasons = "; ".join(f"{count} x {reason}" for reason, count in self.reasons.most_common(10))
            raise TooManyFailedPromptsError(
                f"{failed} of {seen} prompts of the partition {partition!r} failed, {self.failed_in_batch} of the {prompts} "
                f"in this batch; allowed are trainer.v1.sampler.sampler_kwargs.max_failed_share={max_share} of them and no "
                f"whole batch. Reasons: {reasons}"
            )


def _counts(buffer) -> FailureCounts:
    return buffer.__dict__.setdefault("failure_counts", FailureCounts())


def _patch(module: ModuleType) -> str:
    buffer = module.ReplayBuffer
    given = ("self", "partition_id", "sampleable_keys", "batch_size")
    select = expect(module, "ReplayBuffer._select_prompt_uids", *given)
    sample = expect(module, "ReplayBuffer.sample", "self", "global_steps", "partition_id", "batch_size")

    @functools.wraps(select)
    def select_prompt_uids(self, partition_id, sampleable_keys, batch_size):
        selected, rows, steps = select(self, partition_id, sampleable_keys, batch_size)
        failed = self.failure_keys[partition_id].intersection(selected)
        tags = module.tq.kv_list(partition_id)[partition_id] if failed else {}
        counts = _counts(self)
        counts.add(partition_id, len(selected), [tags[uid].get(FAILURE_REASON, "see the log") for uid in failed])
        nothing_left = failed.issuperset(selected) and not any(key.split("_")[0] in failed for key in rows)
        max_share = self.sampler_kwargs.get("max_failed_share", MAX_FAILED_SHARE)
        counts.stop_if_too_many(partition_id, len(selected), nothing_left, max_share)
        return selected, rows, steps

    @functools.wraps(sample)
    def counted_sample(self, global_steps, partition_id, batch_size):
        _counts(self).failed_in_batch = 0
        batch, metrics = sample(self, global_steps, partition_id, batch_size)
        return batch, {**metrics, "training/failed_prompts": _counts(self).failed_in_batch}

    buffer._select_prompt_uids, buffer.sample = select_prompt_uids, counted_sample
    return SOLVED if says(sample, UPSTREAM) else "active: verl's sync trainer does not count prompts that fail"


HOOKS = {"verl.trainer.ppo.v1.replay_buffer": _patch}
