"""Prompts that fail are counted and stop the run if they are too many; finished rollouts are found soon, at a pace that
costs nothing."""

import itertools
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from verl_leaf.common.names import FAILURE_REASON
from verl_leaf.patches import replay_buffer
from verl_leaf.patches.replay_buffer import TooManyFailedPromptsError

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
    with pytest.raises(TooManyFailedPromptsError, match=r"2 of the 2 in this batch, .*Reasons: 2 x cut off"):
        sample("lost", {"a": (True, 0), "b": (True, 0)})


def test_too_large_a_share_stops_the_run(sample):
    assert sample("few", {"a": (True, 1), "b": (False, 1)}, max_failed_share=0.01) == (["a_0_0", "b_0_0"], 1)
    with pytest.raises(TooManyFailedPromptsError, match=r"2 of 4 prompts .*max_failed_share=0.01 allows fewer"):
        sample("few", {"c": (True, 1), "d": (False, 1)}, max_failed_share=0.01)


def buffer(kind=ReplayBuffer, **given):
    return kind("sync", OmegaConf.create({}), None, "drop", OmegaConf.create({}), **given)


@pytest.mark.parametrize("kind", [ReplayBuffer, ReplayBufferAsync])
def test_the_pause_is_twenty_times_as_long_as_a_look_that_nothing_holds_up(queue, monkeypatch, kind):
    ours = buffer(kind)
    if ours.is_paced_by_verl:
        pytest.skip("the interval is solved upstream")
    assert ours.poll_interval == 2.0  # verl's, for all rollouts

    def pause_after(took: float) -> float:
        ticks = itertools.count(0, took)
        monkeypatch.setattr(replay_buffer, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
        ours._sync_metadata_from_transfer_queue()
        return pytest.approx(ours.poll_interval)

    assert pause_after(0.3) == 2.0
    assert pause_after(0.012) == 0.24
    assert pause_after(0.0003) == 0.05
    assert [pause_after(0.012) for _ in range(8)] == [0.05] * 7 + [0.24]  # the queue has grown
    assert pause_after(0.3) == 0.24


def test_a_pause_of_ones_own_is_not_made_longer(queue):
    ours = buffer(poll_interval=0.01)
    ours._sync_metadata_from_transfer_queue()
    assert ours.poll_interval == 0.01


def test_finished_prompts_are_found(queue):
    prompt = {"is_prompt": True, "status": "finished", "global_steps": 1}
    queue.kv_batch_put(keys=["a", "a_0_0"], partition_id="poll", tags=[prompt, {"seq_len": 5}])
    batch, _ = buffer().sample(global_steps=1, partition_id="poll", batch_size=1)
    assert batch.keys == ["a_0_0"]
    queue.kv_clear(keys=["a_0_0"], partition_id="poll")


def test_the_pace_is_verls_if_it_has_a_setting(queue, monkeypatch):
    monkeypatch.setattr(ReplayBuffer, "is_paced_by_verl", True)
    ours = buffer(poll_interval=0.3)
    ours._sync_metadata_from_transfer_queue()
    assert ours.poll_interval == 0.3
