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
"""Estimators that declare ``sum_pi_squared``, e.g. the optimal token baseline, get it in the V1 trainer."""

from types import SimpleNamespace

import pytest
import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict

from verl.protocol import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

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


@pytest.fixture
def declares(registry):
    """An estimator of one's own that declares what the optimal token baseline does."""

    @core_algos.register_adv_est("of_the_test")
    def estimator(token_level_rewards, response_mask, sum_pi_squared, **kwargs):
        return (token_level_rewards + sum_pi_squared) * response_mask, token_level_rewards


def _nested(rows):
    return torch.nested.as_nested_tensor([torch.as_tensor(row) for row in rows], layout=torch.jagged)


@pytest.mark.parametrize("name", ["optimal_token_baseline", "tir_optimal_token_baseline", "of_the_test"])
def test_the_trainer_feeds_those_that_declare_it(declares, name):
    keys, scores = ["a_0_0", "a_1_0", "a_2_0"], [1.0, 0.0, 0.5]
    lengths = [2, 3, 1]
    per_token = [torch.linspace(0.1, 0.3, length) for length in lengths]
    fields = {
        "response_mask": _nested([torch.ones(length, dtype=torch.int64) for length in lengths]),
        "rm_scores": _nested([[0.0] * (length - 1) + [score] for length, score in zip(lengths, scores, strict=True)]),
        "old_log_probs": _nested([-row for row in per_token]),
        "uid": NonTensorStack(*"aaa"),
        "sum_pi_squared": _nested(per_token),
    }
    tags = [{"seq_len": length} for length in lengths]
    batch = tq.kv_batch_put(keys=keys, partition_id="train", fields=TensorDict(fields, batch_size=len(keys)), tags=tags)
    trainer = _StubTrainer.__new__(_StubTrainer)
    algorithm = {"adv_estimator": name, "gamma": 1.0, "lam": 1.0, "use_kl_in_reward": False, "use_pf_ppo": False}
    algorithm["norm_adv_by_std_in_grpo"] = True
    trainer.config = OmegaConf.create({"algorithm": algorithm, "actor_rollout_ref": {"rollout": {"n": 3}}})
    try:
        trainer._compute_advantage(batch, {})
        data = tq.kv_batch_get(keys=keys, partition_id="train", select_fields=["advantages"])
        advantages = [row.tolist() for row in data["advantages"].unbind()]
    finally:
        tq.kv_clear(keys=keys, partition_id="train")
    assert [len(row) for row in advantages] == lengths
    assert any(any(row) for row in advantages)
    if name == "of_the_test":
        assert advantages[2] == [pytest.approx(0.6)]


def _construct(adv_estimator, **algorithm):
    reward_model = {"enable": False, "enable_resource_pool": algorithm.pop("resource_pool", False)}
    trainer = _StubTrainer.__new__(_StubTrainer)
    algorithm = {"adv_estimator": adv_estimator, **algorithm}
    trainer.config = OmegaConf.create({"algorithm": algorithm, "reward": {"reward_model": reward_model}})
    trainer._check_adv_estimator()


@pytest.mark.parametrize("name", ["optimal_token_baseline", "tir_optimal_token_baseline", "of_the_test"])
def test_bypass_mode_without_the_sums_is_refused(declares, name):
    bypass = {"rollout_correction": {"bypass_mode": True}}
    with pytest.raises(ValueError, match=f"adv_estimator={name} needs sum_pi_squared.*bypass_mode=False"):
        _construct(name, **bypass)
    _construct(name)
    _construct("grpo", **bypass)


def test_an_estimator_without_the_sums_that_it_declares_is_told(declares):
    names = ("token_level_rewards", "response_mask", "old_log_probs")
    data = DataProto(batch=TensorDict({name: torch.ones(2, 3) for name in names}, batch_size=2))
    with pytest.raises(AssertionError, match="calculate_sum_pi_squared=True"):
        compute_advantage(data, adv_estimator="of_the_test")


@pytest.mark.parametrize("adv_estimator", ["optimal_token_baseline", "of_the_test", "grpo"])
def test_sums_of_squared_probabilities_are_computed_for_those_that_declare_them(declares, adv_estimator):
    lengths = [(2, 3), (1, 2)]
    keys = ["s_0_0", "s_1_0"]
    asked = {}

    def compute_log_prob(batch):
        asked.update(batch.extra_info)
        whole = [torch.arange(float(sum(length))) for length in lengths]
        names = ["log_probs", "entropy"] + ["sum_pi_squared"] * asked["calculate_sum_pi_squared"]
        return tq.kv_batch_put(
            keys=keys,
            partition_id="train",
            fields=TensorDict({name: _nested(whole) for name in names}, batch_size=2),
        )

    trainer = _StubTrainer.__new__(_StubTrainer)
    actor = {"calculate_sum_pi_squared": True, "loss_agg_mode": "token-mean", "loss_scale_factor": None}
    rollout = {"temperature": 1.0, "calculate_log_probs": False}
    trainer.config = OmegaConf.create(
        {
            "algorithm": {"adv_estimator": adv_estimator},
            "actor_rollout_ref": {"actor": actor, "rollout": rollout},
        }
    )
    trainer.actor_rollout_wg = SimpleNamespace(compute_log_prob=compute_log_prob)
    mask = TensorDict({"response_mask": _nested([torch.ones(length) for _, length in lengths])}, batch_size=2)
    batch = tq.kv_batch_put(keys=keys, partition_id="train", fields=mask, tags=[{"seq_len": 5}, {"seq_len": 3}])
    trainer._compute_old_log_prob(batch, {})
    stored = tq.kv_batch_get(keys=keys, partition_id="train", select_fields=["sum_pi_squared", "old_log_probs"])
    tq.kv_clear(keys=keys, partition_id="train")
    declared = adv_estimator != "grpo"
    assert asked["calculate_sum_pi_squared"] == declared and not batch.extra_info["calculate_sum_pi_squared"]
    # The prediction of a token stands at the one before it.
    computed = ["old_log_probs"] + ["sum_pi_squared"] * declared
    assert sorted(stored.keys()) == computed
    for name in computed:
        assert [row.tolist() for row in stored[name].unbind()] == [[1.0, 2.0, 3.0], [0.0, 1.0]]
