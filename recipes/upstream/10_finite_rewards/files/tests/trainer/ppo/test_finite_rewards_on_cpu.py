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
"""A reward that is not finite stops the trainers, whatever the estimator."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict

from verl.protocol import DataProto
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories


def _data():
    rewards = torch.zeros(4, 3)
    rewards[:, 2] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    fields = {"token_level_rewards": rewards, "response_mask": torch.ones(4, 3), "values": torch.zeros(4, 3)}
    return DataProto(
        batch=TensorDict(fields, batch_size=4), non_tensor_batch={"uid": np.array(list("aabb"), dtype=object)}
    )


@pytest.mark.parametrize("name", ["gae", "grpo", "rloo", "reinforce_plus_plus"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_it_is_named(name, value):
    config = OmegaConf.create({"adv_estimator": name})
    data = _data()
    data.batch["token_level_rewards"][3, 2] = float(value)
    message = rf"row 3 \(prompt uid=b\) is {value}, and 1 of 4 rows"
    with pytest.raises(ValueError, match=message):
        compute_advantage(data, adv_estimator=name, config=config)
    with pytest.raises(ValueError, match=message):
        keys = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
        compute_advantage_for_multi_trajectories(data, batch_keys=keys, adv_estimator=name, config=config)


@pytest.mark.parametrize("name", ["gae", "grpo"])
def test_finite_rewards_pass(name):
    data = compute_advantage(_data(), adv_estimator=name, config=OmegaConf.create({"adv_estimator": name}))
    assert torch.isfinite(data.batch["advantages"]).all()
