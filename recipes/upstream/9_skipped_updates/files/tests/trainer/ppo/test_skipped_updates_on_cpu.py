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
"""Updates that are skipped because their gradients are not finite are counted."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta

from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.utils import MetricsAggregator
from verl.utils.metric import count_updates, reduce_metrics

UPDATES, SKIPPED = "training/updates/sum", "training/skipped_updates/sum"


class _StubTrainer(PPOTrainer):
    def on_step_end(self):
        pass

    def on_sample_end(self):
        pass


@pytest.mark.parametrize(
    "norms, skipped", [([0.5, 2.0], 0), ([0.5, float("nan"), float("inf")], 2), ([], 0), (0.5, 0), (float("nan"), 1)]
)
def test_updates_are_counted(norms, skipped):
    assert count_updates(norms) == {UPDATES: torch.tensor(norms).numel(), SKIPPED: skipped}


def test_the_mean_of_the_norms_does_not_tell():
    means = [reduce_metrics({"grad_norm": [float("nan")] * n + [0.5] * (8 - n)})["grad_norm"] for n in (1, 7)]
    assert all(mean != mean for mean in means)


def test_a_step_of_the_v1_trainer_has_the_counts():
    trainer = _StubTrainer.__new__(_StubTrainer)
    actor = {"ppo_mini_batch_size": 2, "calculate_entropy": False, "entropy_coeff": 0.0, "ppo_epochs": 1}
    actor |= {"data_loader_seed": 1, "shuffle": False}
    trainer.config = OmegaConf.create({"actor_rollout_ref": {"actor": actor, "rollout": {"n": 2, "temperature": 1.0}}})
    output = {"metrics": {"grad_norm": [0.5, float("nan"), 1.0], "mfu": 0.1, "loss": [1.0, 2.0, 3.0]}}
    trainer.actor_rollout_wg = SimpleNamespace(update_actor=lambda batch: output)
    metrics = {}
    trainer._update_actor(KVBatchMeta(partition_id="train", keys=["a_0_0"], tags=[{}]), metrics)
    assert (metrics[UPDATES], metrics[SKIPPED]) == (3, 1)


def test_counts_of_the_parts_of_a_step_are_added_up():
    aggregator = MetricsAggregator()
    for norms in ([0.5, float("inf")], [1.0, 2.0, float("nan")]):
        aggregator.add_step_metrics(count_updates(norms), sample_count=4)
    found = aggregator.get_aggregated_metrics()
    assert (found[UPDATES], found[SKIPPED]) == (5, 2)
