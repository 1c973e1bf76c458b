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
"""The V1 trainer feeds every advantage estimator of the registry, from a real TransferQueue."""

import asyncio
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict

from verl.experimental.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics
from verl.protocol import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.core_algos import AdvantageEstimator
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
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
            "sum_pi_squared": _nested([row.abs() for row in _per_token(3).unbind()]),
            "reward_baselines": torch.tensor([0.5] * 4 + [0.25] * 4),
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


@pytest.mark.parametrize("name", [estimator.value for estimator in AdvantageEstimator])
def test_every_estimator_is_fed(batch, name):
    advantages = _advantages(batch, name)
    assert torch.isfinite(advantages).all() and advantages.abs().sum() > 0


def test_remax_subtracts_its_baseline(batch):
    expected = [[score - baseline] * 4 for score, baseline in zip(ACCURACY, [0.5] * 4 + [0.25] * 4, strict=True)]
    mask = torch.arange(4)[None, :] < torch.tensor(RESPONSE_LENGTHS)[:, None]
    torch.testing.assert_close(_advantages(batch, "remax"), torch.tensor(expected) * mask)


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


@pytest.fixture
def declares(registered):
    """An estimator of one's own that declares what ReMax and the optimal token baseline do."""

    @registered
    def estimator(token_level_rewards, response_mask, reward_baselines, sum_pi_squared, **kwargs):
        advantages = token_level_rewards + reward_baselines[:, None] + sum_pi_squared
        return advantages * response_mask, token_level_rewards


def test_an_estimator_of_ones_own_is_handed_what_it_declares(batch, declares):
    fields = ["rm_scores", "sum_pi_squared"]
    stored = tq.kv_batch_get(keys=KEYS, partition_id="train", select_fields=fields).to_padded_tensor(0.0)
    mask = torch.arange(4)[None, :] < torch.tensor(RESPONSE_LENGTHS)[:, None]
    expected = stored["rm_scores"] + torch.tensor([0.5] * 4 + [0.25] * 4)[:, None] + stored["sum_pi_squared"]
    torch.testing.assert_close(_advantages(batch, "of_the_test"), expected * mask)


def test_an_estimator_of_ones_own_without_what_it_declares_is_told(declares):
    names = ("token_level_rewards", "response_mask", "old_log_probs")
    data = DataProto(batch=TensorDict({name: torch.ones(2, 3) for name in names}, batch_size=2))
    with pytest.raises(AssertionError, match="calculate_sum_pi_squared=True"):
        compute_advantage(data, adv_estimator="of_the_test")


def _construct(adv_estimator, colocated=False, resource_pool=False, bypass=False):
    config = {
        "algorithm": {"adv_estimator": adv_estimator, "rollout_correction": {"bypass_mode": bypass}},
        "reward": {"reward_model": {"enable": colocated or resource_pool, "enable_resource_pool": resource_pool}},
    }
    trainer = _StubTrainer.__new__(_StubTrainer)
    trainer.config = OmegaConf.create(config)
    trainer._check_adv_estimator()


@pytest.mark.parametrize("name", ["remax", "gdpo", "of_the_test"])
def test_a_reward_model_that_scores_after_sampling_is_refused(declares, name):
    with pytest.raises(ValueError, match=f"adv_estimator={name} requires rewards at sampling time"):
        _construct(name, colocated=True)
    _construct(name, resource_pool=True)
    _construct(name)
    _construct("grpo", colocated=True)


@pytest.mark.parametrize("name", ["optimal_token_baseline", "tir_optimal_token_baseline", "of_the_test"])
def test_bypass_mode_without_the_sums_of_squared_probabilities_is_refused(declares, name):
    with pytest.raises(ValueError, match=f"adv_estimator={name} needs sum_pi_squared.*bypass_mode=False"):
        _construct(name, bypass=True)
    _construct(name)
    _construct("grpo", bypass=True)


def test_the_trainer_refuses_when_it_is_constructed():
    config = {
        "algorithm": {"adv_estimator": "remax"},
        "reward": {"reward_model": {"enable": True, "enable_resource_pool": False}},
    }
    with pytest.raises(ValueError, match="requires rewards at sampling time"):
        _StubTrainer(OmegaConf.create(config))


# ReMax's greedy rollout, and the sums of squared probabilities of the optimal token baseline


class _Worker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """A worker whose agent loop answers at once: greedy rollouts earn ``greedy_reward``, others 1."""

    def __init__(self, greedy_reward):
        self.config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"n": 2, "val_kwargs": {"n": 2}}}})
        self.greedy_baselines, self.greedy_reward, self.sampled = {}, greedy_reward, []

    async def _run_agent_loop(self, sampling_params, trajectory, *, trace, **kwargs):
        self.sampled.append(sampling_params["temperature"])
        output = AgentLoopOutput(
            prompt_ids=[1, 2],
            response_ids=[3, 4, 5],
            response_mask=[1, 1, 1],
            reward_score=self.greedy_reward if sampling_params["temperature"] == 0 else 1.0,
            num_turns=2,
            metrics=AgentLoopMetrics(),
            extra_fields={"reward_extra_info": {}},
        )
        return await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)

    async def _compute_score(self, outputs, kwargs):
        pass

    async def _compute_teacher_logprobs(self, *args, **kwargs):
        pass

    def _compute_multi_modal_inputs(self, output, input_ids):
        return {}

    def _compute_position_ids(self, input_ids, attention_mask, multi_modal_inputs):
        return torch.arange(input_ids.shape[1]).unsqueeze(0)


def _submitted(adv_estimator):
    """What a worker gets from the manager for one prompt."""
    submitted = []

    def generate_sequences(batch):
        submitted.append(batch)
        return ray.put(None)

    manager = AgentLoopManagerTQ.__new__(AgentLoopManagerTQ)
    manager.config = OmegaConf.create({"algorithm": {"adv_estimator": adv_estimator}})
    manager.agent_loop_workers = [SimpleNamespace(generate_sequences=SimpleNamespace(remote=generate_sequences))]
    manager.generate_sequences(TensorDict({"uid": NonTensorStack("u")}, batch_size=1))
    return {key: value.data for key, value in submitted[0].items() if key != "uid"}


def _rollout(adv_estimator, uid, validate=False, greedy_reward=0.25):
    worker = _Worker(greedy_reward)
    partition = "val" if validate else "train"
    tq.kv_put(key=uid, partition_id=partition, tag={"is_prompt": True, "status": "pending", "global_steps": 1})
    prompt = {"uid": uid, "raw_prompt": [{"role": "user", "content": "?"}], "global_steps": 1}
    prompt.update(_submitted(adv_estimator))
    sampling_params = {"temperature": 1.0, "top_p": 1.0, "top_k": -1}
    asyncio.run(worker._run_prompt(prompt, sampling_params, {"validate": validate}))
    tags = tq.kv_list(partition)[partition]
    rows = sorted(key for key in tags if key.startswith(f"{uid}_"))
    fields = tq.kv_batch_get(keys=rows, partition_id=partition) if rows else {}
    tq.kv_clear(keys=[uid, *rows], partition_id=partition)
    assert worker.greedy_baselines == {}
    return SimpleNamespace(rows=rows, fields=fields, status=tags[uid]["status"], sampled=worker.sampled)


@pytest.mark.parametrize("adv_estimator", ["remax", "of_the_test"])
def test_rollouts_bring_the_reward_of_a_greedy_one(declares, adv_estimator):
    uid = adv_estimator.replace("_", "-")
    done = _rollout(adv_estimator, uid)
    assert done.status == "finished" and sorted(done.sampled) == [0, 1.0, 1.0]
    assert done.rows == [f"{uid}_0_0", f"{uid}_1_0"]  # the greedy one is not trained on
    assert done.fields["reward_baselines"].flatten().tolist() == [0.25, 0.25]
    assert "__greedy_baseline__" not in done.fields.keys()


@pytest.mark.parametrize("adv_estimator, validate", [("grpo", False), ("remax", True)])
def test_others_and_validation_have_no_greedy_rollout(adv_estimator, validate):
    done = _rollout(adv_estimator, f"{adv_estimator}{validate}", validate)
    assert done.sampled == [1.0, 1.0] and "reward_baselines" not in done.fields.keys()


def test_remax_without_a_reward_at_rollout_fails_the_prompt():
    done = _rollout("remax", "unrewarded", greedy_reward=None)
    assert done.status == "failure" and done.rows == []


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


def test_parameters_are_those_that_are_declared():
    assert "batch" in core_algos.get_adv_estimator_parameters("gdpo")
    assert "kwargs" in inspect.signature(core_algos.get_adv_estimator_fn("rloo")).parameters
    assert "kwargs" not in core_algos.get_adv_estimator_parameters("rloo")
