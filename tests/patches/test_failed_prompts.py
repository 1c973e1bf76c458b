"""Prompts that fail are counted, and stop the run where they are too many."""

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from verl_leaf.common.names import FAILURE_REASON
from verl_leaf.patches.failed_prompts import TooManyFailedPromptsError

pytestmark = pytest.mark.e2e


@pytest.fixture
def sample(queue):
    """Samples a batch of prompts, of each of which is said whether it has failed and how many rollouts it has."""
    buffers = {}

    def sample(partition: str, prompts: dict[str, tuple[bool, int]], **settings):
        ours = buffers.setdefault(
            partition, ReplayBuffer("sync", OmegaConf.create({}), None, "drop", OmegaConf.create(settings))
        )
        for uid, (failed, rollouts) in prompts.items():
            tag = {"is_prompt": True, "status": "failure" if failed else "finished", "global_steps": 1}
            if failed:
                tag[FAILURE_REASON] = "cut off"
            keys = [f"{uid}_{number}_0" for number in range(rollouts)]
            queue.kv_batch_put(keys=[uid, *keys], partition_id=partition, tags=[tag, *([{"seq_len": 5}] * rollouts)])
        batch, metrics = ours.sample(1, partition, len(prompts))
        queue.kv_clear(keys=batch.keys, partition_id=partition)
        return batch.keys, metrics["training/failed_prompts"]

    return sample


def test_failed_prompts_are_counted_per_batch(sample):
    assert sample("train", {"a": (False, 2), "b": (True, 1)}) == (["a_0_0", "a_1_0", "b_0_0"], 1)
    assert sample("train", {"c": (False, 1), "d": (False, 1)}) == (["c_0_0", "d_0_0"], 0)


def test_a_batch_of_which_nothing_is_left_stops_the_run_and_says_why(sample):
    with pytest.raises(TooManyFailedPromptsError, match=r"2 of the 2 in this batch; .*Reasons: 2 x cut off"):
        sample("lost", {"a": (True, 0), "b": (True, 0)})


def test_too_large_a_share_stops_the_run(sample):
    assert sample("few", {"a": (True, 1), "b": (False, 1)}, max_failed_share=0.01) == (["a_0_0", "b_0_0"], 1)
    with pytest.raises(TooManyFailedPromptsError, match=r"2 of 4 prompts .*max_failed_share=0.01 of them"):
        sample("few", {"c": (True, 1), "d": (False, 1)}, max_failed_share=0.01)
