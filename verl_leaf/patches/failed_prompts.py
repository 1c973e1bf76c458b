"""Prompts that fail cost the run no more than themselves, and are counted.

When a rollout fails, veRL's sync trainer goes on with what there is, says nothing in the metrics, and stops with an error
that names no reason where nothing is left (verl/trainer/ppo/v1/replay_buffer.py ReplayBuffer.sample, 0.9.1; at
validation TransferQueue's "Received an empty list as keys"). A sampler of one's own would have to bring its own
``filter_groups``, so veRL's is wrapped. In the asynchronous modes veRL replaces and counts failed prompts itself.
"""

import functools
from collections import Counter

import wrapt

from verl_leaf.patches.base import STATUS, expect_parameters
from verl_leaf.speech.names import FAILURE_REASON

MAX_FAILED_SHARE = 0.05  # trainer.v1.sampler.sampler_kwargs.max_failed_share
AT_LEAST = 100  # prompts that the share is taken of


class TooManyFailedPromptsError(RuntimeError):
    """More prompts have failed than the run allows."""


def install() -> None:
    wrapt.when_imported("verl.trainer.ppo.v1.replay_buffer")(_patch)


def _patch(module) -> None:
    buffer = module.ReplayBuffer
    select, sample = buffer._select_prompt_uids, buffer.sample
    expect_parameters(select, "self", "partition_id", "sampleable_keys", "batch_size")
    expect_parameters(sample, "self", "global_steps", "partition_id", "batch_size")

    @functools.wraps(select)
    def select_prompt_uids(self, partition_id, sampleable_keys, batch_size):
        selected, rows, steps = select(self, partition_id, sampleable_keys, batch_size)
        failed = self.failure_keys[partition_id].intersection(selected)
        counts = self.__dict__.setdefault("prompt_counts", Counter())
        counts[partition_id] += len(selected)
        counts[partition_id, "failed"] += len(failed)
        if failed:
            tags = module.tq.kv_list(partition_id)[partition_id]
            reasons = self.__dict__.setdefault("failure_reasons", Counter())
            reasons.update(tags[uid].get(FAILURE_REASON, "see the log") for uid in failed)
            self.failed_prompts = len(failed)
            share = self.sampler_kwargs.get("max_failed_share", MAX_FAILED_SHARE)
            nothing_left = failed.issuperset(selected) and not any(key.split("_")[0] in failed for key in rows)
            if nothing_left or counts[partition_id, "failed"] > share * max(counts[partition_id], AT_LEAST):
                raise TooManyFailedPromptsError(
                    f"{counts[partition_id, 'failed']} of {counts[partition_id]} prompts of the partition "
                    f"{partition_id!r} failed, {len(failed)} of the {len(selected)} in this batch; allowed are "
                    f"trainer.v1.sampler.sampler_kwargs.max_failed_share={share} of them and no whole batch. Reasons: "
                    + "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(10))
                )
        return selected, rows, steps

    @functools.wraps(sample)
    def counted_sample(self, global_steps, partition_id, batch_size):
        self.failed_prompts = 0
        batch, metrics = sample(self, global_steps, partition_id, batch_size)
        return batch, {**metrics, "training/failed_prompts": self.failed_prompts}

    buffer._select_prompt_uids, buffer.sample = select_prompt_uids, counted_sample
    STATUS["failed_prompts"] = "active: veRL's sync trainer does not count prompts that fail"
