# Copyright 2026 Bytedance Ltd. and/or its affiliates
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Failed prompts are counted when they are sampled."""

import logging
import uuid

import pytest
import ray
import transfer_queue as tq
from omegaconf import OmegaConf

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.utils import MetricsAggregator

COUNT = "training/rollout_failure/sampled_prompts"


@pytest.fixture(scope="module")
def tq_init():
    ray.init(
        num_cpus=8, include_dashboard=False, ignore_reinit_error=True
    )  # logical ones, so that a small host will do
    tq.init()
    yield
    tq.close()


def _sample(partition_id, prompts):
    """Sample prompts of which each is a name, a status and the number of its trajectories."""
    buffer = ReplayBuffer("sync", OmegaConf.create({}), 8, "drop", OmegaConf.create({}), poll_interval=0.01)
    run = uuid.uuid4().hex
    for name, status, trajectories in prompts:
        keys = [f"{run}{name}", *(f"{run}{name}_{session}_0" for session in range(trajectories))]
        prompt = {"is_prompt": True, "status": status, "global_steps": 1}
        tq.kv_batch_put(keys=keys, partition_id=partition_id, tags=[prompt, *([{"seq_len": 5}] * trajectories)])
    try:
        batch, metrics = buffer.sample(global_steps=1, partition_id=partition_id, batch_size=len(prompts))
    finally:
        left = [key for key in tq.kv_list(partition_id).get(partition_id, {}) if key.startswith(run)]
        if left:
            tq.kv_clear(keys=left, partition_id=partition_id)
    return len(batch.keys), metrics


def test_failed_prompts_are_counted_and_logged(tq_init, caplog):
    with caplog.at_level(logging.WARNING, logger="verl.trainer.ppo.v1.replay_buffer"):
        size, metrics = _sample("train", [("a", "finished", 2), ("b", "failure", 1), ("c", "failure", 0)])
    assert size == 3 and metrics[COUNT] == 2
    assert "2 of 3 prompts sampled from 'train' have failed sessions" in caplog.text


def test_a_batch_without_failures_says_nothing(tq_init):
    assert _sample("train", [("a", "finished", 2)]) == (2, {})


def test_validation_logs_them_alone(tq_init, caplog):
    with caplog.at_level(logging.WARNING, logger="verl.trainer.ppo.v1.replay_buffer"):
        _, metrics = _sample("val", [("a", "finished", 1), ("b", "failure", 0)])
    assert metrics == {} and "1 of 2 prompts sampled from 'val' have failed sessions" in caplog.text


def test_a_batch_of_which_nothing_is_left_says_how_many_failed(tq_init):
    with pytest.raises(RuntimeError, match="2 of 2 prompts have failed"):
        _sample("train", [("a", "failure", 0), ("b", "failure", 0)])


def test_counts_of_a_step_are_added_up():
    aggregator = MetricsAggregator()
    for failed in (2, 3):
        aggregator.add_step_metrics({COUNT: failed}, sample_count=4)
    assert aggregator.get_aggregated_metrics()[COUNT] == 5
