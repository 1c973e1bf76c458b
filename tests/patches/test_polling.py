"""Finished rollouts are found soon, at a pace that costs nothing."""

import itertools
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from verl_leaf.patches import polling

pytestmark = pytest.mark.e2e


def buffer(kind=ReplayBuffer, **given):
    return kind("sync", OmegaConf.create({}), None, "drop", OmegaConf.create({}), **given)


@pytest.mark.parametrize("kind", [ReplayBuffer, ReplayBufferAsync])
def test_the_pause_is_twenty_times_as_long_as_a_look_that_nothing_holds_up(needed, queue, monkeypatch, kind):
    ours = buffer(kind)
    assert ours.poll_interval == 2.0  # verl's, for all rollouts

    def pause_after(took: float) -> float:
        ticks = itertools.count(0, took)
        monkeypatch.setattr(polling, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
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
