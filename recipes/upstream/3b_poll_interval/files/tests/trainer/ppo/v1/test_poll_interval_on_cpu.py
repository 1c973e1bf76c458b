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
"""The poll interval of the replay buffer is a setting."""

import pytest
from omegaconf import OmegaConf

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.trainer.ppo.v1.trainer_base import PPOTrainer


class _StubTrainer(PPOTrainer):
    def on_step_end(self):
        pass

    def on_sample_end(self):
        pass


class _CustomSampler:
    def __init__(self, **kwargs):
        self.kwargs = kwargs


@pytest.mark.parametrize("trainer_mode, cls", [("sync", ReplayBuffer), ("colocate_async", ReplayBufferAsync)])
@pytest.mark.parametrize("settings, interval", [({"poll_interval": 0.1}, 0.1), ({}, 2.0)])
def test_the_poll_interval_is_a_setting(trainer_mode, cls, settings, interval):
    buffer = _trainer(trainer_mode, settings)._build_replay_buffer()
    assert type(buffer) is cls and buffer.poll_interval == interval


def test_a_custom_sampler_gets_what_it_did_before(monkeypatch):
    monkeypatch.setattr("verl.trainer.ppo.v1.trainer_base.load_extern_type", lambda path, name: _CustomSampler)
    trainer = _trainer("sync", {"poll_interval": 0.1, "custom_sampler": {"path": "a.py", "name": "_CustomSampler"}})
    assert "poll_interval" not in trainer._build_replay_buffer().kwargs


def _trainer(trainer_mode, settings):
    sampler = {"max_off_policy_threshold": 1, "max_off_policy_strategy": "drop", "sampler_kwargs": {}, **settings}
    trainer = _StubTrainer.__new__(_StubTrainer)
    trainer.trainer_mode = trainer_mode
    trainer.config = OmegaConf.create(
        {
            "algorithm": {},
            "data": {"train_batch_size": 4},
            "trainer": {"v1": {trainer_mode: {}, "sampler": sampler}},
        }
    )
    return trainer
