"""verl's trainers look for finished rollouts every 2 s, so that a second of every step is lost on average.

verl/trainer/ppo/v1/replay_buffer.py ReplayBuffer sleeps ``poll_interval`` between two looks (0.9.1), which is an argument
of its constructor that no setting reaches. What a look costs grows with the rollouts in TransferQueue: 0.3 ms with 48 of
them, 1 ms with 512, 12 ms with 8192 (tests/benchmarks/polling.py). So the next look comes after twenty times as long as
one takes: never more than a twentieth of a core, and never slower than before. Of the last looks the fastest counts: another
was held up where all cores are busy, and a pause of twenty times as long would lose what polling has won.

Where verl's trainer has a setting for it, ``trainer.v1.sampler.poll_interval``, that setting is what counts.
"""

import collections
import functools
import inspect
import time
from types import ModuleType

from verl_leaf.patches.base import SOLVED, TESTED_VERSIONS, PatchError, expect

UPSTREAM = "trainer.v1.sampler.poll_interval"  # a setting once recipes/upstream/3_failed_prompts is in verl
PAUSE_PER_LOOK = 20.0  # seconds of sleep per second of looking
SHORTEST_PAUSE = 0.05  # seconds
LAST_LOOKS = 8


def _patch(module: ModuleType) -> str:
    buffer = module.ReplayBuffer
    construct = expect(module, "ReplayBuffer.__init__")
    if "poll_interval" not in inspect.signature(construct).parameters:
        raise PatchError(f"{module.__name__}.ReplayBuffer takes no poll_interval any more. {TESTED_VERSIONS}")
    if UPSTREAM in (buffer.__doc__ or ""):
        return f"{SOLVED}, by {UPSTREAM}"
    look = expect(module, "ReplayBuffer._sync_metadata_from_transfer_queue", "self")
    expect(module, "ReplayBuffer._wait_for_next_poll", "self", "partition_id", "last_debug_time")

    @functools.wraps(construct)
    def __init__(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        self.longest_pause = self.poll_interval
        self.last_looks = collections.deque(maxlen=LAST_LOOKS)  # seconds

    @functools.wraps(look)
    def timed_look(self):
        began = time.perf_counter()
        look(self)
        self.last_looks.append(time.perf_counter() - began)
        self.poll_interval = min(max(PAUSE_PER_LOOK * min(self.last_looks), SHORTEST_PAUSE), self.longest_pause)

    buffer.__init__, buffer._sync_metadata_from_transfer_queue = __init__, timed_look
    return "active: verl looks for finished rollouts every 2 s"


HOOKS = {"verl.trainer.ppo.v1.replay_buffer": _patch}
