"""verl's replay buffer does not count failed prompts, and looks for finished rollouts only every 2 s.

This is verl/trainer/ppo/v1/replay_buffer.py ReplayBuffer (0.9.1). A ``trainer.v1.sampler.custom_sampler`` would have to
bring its own ``filter_groups``, so the classes are extended instead.

- When a rollout fails, verl's sync trainer continues with the others and reports nothing in the metrics. If none is
  left, it stops with an error that names no reason (at validation TransferQueue's "Received an empty list as keys").
  Here failed prompts are counted, and too many of them stop the run, with the reasons. In the asynchronous modes verl
  replaces and counts failed prompts itself.
- ``poll_interval`` is a constructor argument that no setting reaches, so on average a second of every step is lost. The
  cost of a look grows with the rollouts in TransferQueue: 0.3 ms with 48 of them, 1 ms with 512, 12 ms with 8192
  (tests/benchmarks/polling.py). So the pause is twenty times the duration of a look, which uses at most a twentieth of
  a core, and is never longer than verl's. The fastest of the last looks counts, because on a busy machine a single look
  can be slow.

With recipes/upstream/3_failed_prompts in it, verl also counts failed prompts in the sync mode, but still continues; and its
setting ``trainer.v1.sampler.poll_interval`` is used.
"""

import collections
import inspect
import time
from collections import Counter
from types import ModuleType

from verl_leaf.common.names import FAILURE_REASON
from verl_leaf.patches.base import TESTED_VERSIONS, PatchError, expect, extend, says

# verl's own metric and setting once recipes/upstream/3_failed_prompts is in it.
COUNTED_UPSTREAM, PACED_UPSTREAM = "rollout_failure/sampled_prompts", "trainer.v1.sampler.poll_interval"
SOLVED = "active: stops a run that loses too many, with the reasons; the count and the interval are solved upstream"
MAX_FAILED_SHARE = 0.05  # trainer.v1.sampler.sampler_kwargs.max_failed_share
AT_LEAST = 100  # the share is of at least this many prompts
PAUSE_PER_LOOK = 20.0  # seconds of sleep per second of looking
SHORTEST_PAUSE = 0.05  # seconds
LAST_LOOKS = 8


class TooManyFailedPromptsError(RuntimeError):
    """An error if more prompts have failed than the run allows."""


class ReplayBufferMixin:
    """Methods that count failed prompts and set the pause between looks, for a replay buffer of verl."""

    is_paced_by_verl: bool
    poll_interval: float  # verl's, seconds

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen: Counter[str] = Counter()  # number of prompts by partition
        self.failed: Counter[str] = Counter()  # number of failed prompts by partition
        self.failure_reasons: Counter[str] = Counter()
        self.failed_in_batch = 0
        self.longest_pause = self.poll_interval
        self.last_looks: collections.deque[float] = collections.deque(maxlen=LAST_LOOKS)  # seconds

    def _sync_metadata_from_transfer_queue(self):
        began = time.perf_counter()
        super()._sync_metadata_from_transfer_queue()
        self.last_looks.append(time.perf_counter() - began)
        if not self.is_paced_by_verl:
            self.poll_interval = min(max(PAUSE_PER_LOOK * min(self.last_looks), SHORTEST_PAUSE), self.longest_pause)

    def _select_prompt_uids(self, partition_id, sampleable_keys, batch_size):
        from verl.trainer.ppo.v1 import replay_buffer

        selected, rows, steps = super()._select_prompt_uids(partition_id, sampleable_keys, batch_size)
        failed = self.failure_keys[partition_id].intersection(selected)
        tags = replay_buffer.tq.kv_list(partition_id)[partition_id] if failed else {}
        self.seen[partition_id] += len(selected)
        self.failed[partition_id] += len(failed)
        self.failure_reasons.update(tags[uid].get(FAILURE_REASON, "see the log") for uid in failed)
        self.failed_in_batch = len(failed)
        nothing_left = failed.issuperset(selected) and not any(key.split("_")[0] in failed for key in rows)
        if failed:
            self._stop_if_too_many(partition_id, len(selected), nothing_left)
        return selected, rows, steps

    def _stop_if_too_many(self, partition: str, prompts: int, nothing_left: bool) -> None:
        failed, seen = self.failed[partition], self.seen[partition]
        max_share = self.sampler_kwargs.get("max_failed_share", MAX_FAILED_SHARE)
        if nothing_left or failed > max_share * max(seen, AT_LEAST):
            reasons = "; ".join(f"{count} x {reason}" for reason, count in self.failure_reasons.most_common(10))
            raise TooManyFailedPromptsError(
                f"{failed} of {seen} prompts of the partition {partition!r} failed, {self.failed_in_batch} of the {prompts} "
                f"in this batch, but trainer.v1.sampler.sampler_kwargs.max_failed_share={max_share} allows fewer, and never a "
                f"whole batch. Reasons: {reasons}"
            )

    def sample(self, global_steps, partition_id, batch_size):
        self.failed_in_batch = 0
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        return batch, {**metrics, "training/failed_prompts": self.failed_in_batch}


def _patch(module: ModuleType) -> str:
    expect(module, "ReplayBuffer._select_prompt_uids", "self", "partition_id", "sampleable_keys", "batch_size")
    sample = expect(module, "ReplayBuffer.sample", "self", "global_steps", "partition_id", "batch_size")
    expect(module, "ReplayBufferAsync.sample", "self", "global_steps", "partition_id", "batch_size")
    expect(module, "ReplayBuffer._sync_metadata_from_transfer_queue", "self")
    expect(module, "ReplayBuffer._wait_for_next_poll", "self", "partition_id", "last_debug_time")
    if "poll_interval" not in inspect.signature(expect(module, "ReplayBuffer.__init__")).parameters:
        raise PatchError(f"{module.__name__}.ReplayBuffer no longer has a parameter poll_interval. {TESTED_VERSIONS}")
    is_paced = PACED_UPSTREAM in (module.ReplayBuffer.__doc__ or "")
    for name in ("ReplayBuffer", "ReplayBufferAsync"):
        extend(module, name, ReplayBufferMixin, is_paced_by_verl=is_paced)
    if is_paced and says(sample, COUNTED_UPSTREAM):
        return SOLVED
    return "active: verl's sync trainer counts no prompts that fail, and looks for finished rollouts every 2 s"


HOOKS = {"verl.trainer.ppo.v1.replay_buffer": _patch}
