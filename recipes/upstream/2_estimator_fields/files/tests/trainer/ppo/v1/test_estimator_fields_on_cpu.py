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
"""The V1 trainer feeds an advantage estimator what it declares, from a real TransferQueue."""

import inspect

import numpy as np
import pytest
import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict

from verl.trainer.ppo import core_algos
from verl.trainer.ppo.core_algos import AdvantageEstimator
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.utils import adv_estimator_data, adv_estimator_fields

PROMPT_LENGTHS = [3, 3, 3, 3, 2, 2, 2, 2]
RESPONSE_LENGTHS = [4, 3, 4, 2, 1, 4, 3, 4]
KEYS = [f"{uid}_{session}_0" for uid in "ab" for session in range(4)]
ACCURACY = [1.0, 0.0, 0.5, 0.0, 1.0, 0.25, 0.0, 0.5]
FORMAT = [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
REGISTRY = dict(core_algos.ADV_ESTIMATOR_REGISTRY)


class _StubTrainer(PPOTrainer):
    def on_step_end(self):
        pass

    def on_sample_end(self):
        pass


@pytest.fixture(scope="module", autouse=True)
def tq_init():
    ray.init(
        num_cpus=8, include_dashboard=False, ignore_reinit_error=True
    )  # logical ones, so that a small host will do
    tq.init()
    yield
    tq.close()


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """The estimators of verl, whatever other tests have left of them (test_core_algos_on_cpu.py clears them)."""
    monkeypatch.setattr(core_algos, "ADV_ESTIMATOR_REGISTRY", dict(REGISTRY))


def _nested(rows):
    return torch.nested.as_nested_tensor([torch.as_tensor(row) for row in rows], layout=torch.jagged)


def _per_token(seed):
    generator = torch.Generator().manual_seed(seed)
    return _nested([-torch.rand(length, generator=generator) for length in RESPONSE_LENGTHS])


@pytest.fixture
def batch():
    """Two prompts with four responses each, as rollout and the preceding steps leave them in TransferQueue."""
    scores = [[0.0] * (length - 1) + [score] for length, score in zip(RESPONSE_LENGTHS, ACCURACY, strict=True)]
    fields = TensorDict(
        {
            "prompts": _nested([torch.arange(1, length + 1) for length in PROMPT_LENGTHS]),
            "responses": _nested([torch.arange(11, length + 11) for length in RESPONSE_LENGTHS]),
            "response_mask": _nested([torch.ones(length, dtype=torch.int64) for length in RESPONSE_LENGTHS]),
            "rm_scores": _nested(scores),
            "values": _per_token(0),
            "rollout_log_probs": _per_token(1),
            "old_log_probs": _per_token(2),
            "uid": NonTensorStack(*"aaaabbbb"),
            "extra_fields": NonTensorStack(
                *[
                    {"reward_extra_info": {"accuracy": accuracy, "format": format_}}
                    for accuracy, format_ in zip(ACCURACY, FORMAT, strict=True)
                ]
            ),
        },
        batch_size=8,
    )
    tags = [{"seq_len": sum(lengths)} for lengths in zip(PROMPT_LENGTHS, RESPONSE_LENGTHS, strict=True)]
    yield tq.kv_batch_put(keys=KEYS, partition_id="train", fields=fields, tags=tags)
    tq.kv_clear(keys=KEYS, partition_id="train")


def _advantages(batch, name):
    trainer = _StubTrainer.__new__(_StubTrainer)
    algorithm = {
        "adv_estimator": name,
        "gamma": 1.0,
        "lam": 1.0,
        "use_kl_in_reward": False,
        "use_pf_ppo": False,
        "norm_adv_by_std_in_grpo": True,
        "gdpo_reward_keys": ["accuracy", "format"],
    }
    trainer.config = OmegaConf.create({"algorithm": algorithm, "actor_rollout_ref": {"rollout": {"n": 4}}})
    trainer._compute_advantage(batch, {})
    data = tq.kv_batch_get(keys=KEYS, partition_id="train", select_fields=["advantages"])
    assert data["advantages"].offsets().diff().tolist() == RESPONSE_LENGTHS
    return data["advantages"].to_padded_tensor(0.0)


# ReMax and the two token baselines need more than the steps before leave in TransferQueue.
FED = [each.value for each in AdvantageEstimator if each.value != "remax" and "token_baseline" not in each.value]


@pytest.mark.parametrize("name", FED)
def test_estimators_are_fed(batch, name):
    advantages = _advantages(batch, name)
    assert torch.isfinite(advantages).all() and advantages.abs().sum() > 0


def test_gdpo_normalizes_each_reward_that_it_is_given(batch):
    mask = (torch.arange(4)[None, :] < torch.tensor(RESPONSE_LENGTHS)[:, None]).float()
    index = np.array(list("aaaabbbb"), dtype=object)
    total = 0
    for rewards in (ACCURACY, FORMAT):
        scores = torch.zeros(8, 4)
        scores[torch.arange(8), torch.tensor(RESPONSE_LENGTHS) - 1] = torch.tensor(rewards)
        total = total + core_algos.compute_grpo_outcome_advantage(scores, mask, index)[0]
    expected = core_algos.verl_F.masked_whiten(total, mask) * mask
    torch.testing.assert_close(_advantages(batch, "gdpo"), expected)


@pytest.mark.parametrize("lacking, uid", [(0, "a"), (6, "b")])
def test_a_reward_that_some_responses_lack_is_named(lacking, uid):
    infos = [{"accuracy": 1.0, "format": 0.0} for _ in range(8)]
    del infos[lacking]["format"]
    fields = {
        "uid": NonTensorStack(*"aaaabbbb"),
        "extra_fields": NonTensorStack(*[{"reward_extra_info": info} for info in infos]),
    }
    with pytest.raises(ValueError, match=f"returned 'format' for some responses, but not for 1 .* uid={uid}"):
        adv_estimator_data(TensorDict(fields, batch_size=8))


@pytest.fixture
def registered(registry):
    """Registers an estimator for the time of a test."""
    return core_algos.register_adv_est("of_the_test")


def test_an_estimator_is_handed_the_batch_that_it_declares(batch, registered):
    given = {}

    @registered
    def estimator(token_level_rewards, response_mask, batch, non_tensor_batch, **kwargs):
        given.update(batch=dict(batch), non_tensor_batch=non_tensor_batch)
        return token_level_rewards, token_level_rewards

    _advantages(batch, "of_the_test")
    assert given["batch"]["responses"][3].tolist() == [11, 12, 0, 0]
    assert given["batch"]["prompts"].shape == (8, 3)
    assert given["batch"]["attention_mask"][4].tolist() == [1, 1, 0, 1, 0, 0, 0]
    assert {"rollout_log_probs", "old_log_probs"} <= given["batch"].keys()
    assert given["non_tensor_batch"]["format"].tolist() == FORMAT
    assert given["non_tensor_batch"]["uid"].tolist() == list("aaaabbbb")


def test_an_estimator_that_declares_nothing_costs_nothing(registered):
    @registered
    def estimator(token_level_rewards, response_mask, **kwargs):
        assert not {"batch", "non_tensor_batch"} & kwargs.keys()
        return token_level_rewards, token_level_rewards

    assert adv_estimator_fields("of_the_test") == adv_estimator_fields(AdvantageEstimator.GRPO) == []
    assert adv_estimator_fields("gdpo") == ["prompts", "responses", "extra_fields"]


def test_gdpo_with_a_reward_model_that_scores_after_sampling_is_refused():
    config = {
        "algorithm": {"adv_estimator": "gdpo"},
        "reward": {"reward_model": {"enable": True, "enable_resource_pool": False}},
    }
    with pytest.raises(ValueError, match="adv_estimator=gdpo requires rewards at sampling time"):
        _StubTrainer(OmegaConf.create(config))
    trainer = _StubTrainer.__new__(_StubTrainer)
    for name, resource_pool in (("gdpo", True), ("grpo", False)):
        config["algorithm"]["adv_estimator"] = name
        config["reward"]["reward_model"]["enable_resource_pool"] = resource_pool
        trainer.config = OmegaConf.create(config)
        trainer._check_adv_estimator()


def test_parameters_are_those_that_are_declared():
    assert "batch" in core_algos.get_adv_estimator_parameters("gdpo")
    assert "kwargs" in inspect.signature(core_algos.get_adv_estimator_fn("rloo")).parameters
    assert "kwargs" not in core_algos.get_adv_estimator_parameters("rloo")
