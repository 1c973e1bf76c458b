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
"""Estimators that declare ``reward_baselines``, e.g. ReMax, get the reward of a greedy rollout in the V1 trainer."""

import asyncio
from types import SimpleNamespace

import pytest
import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict

from verl.experimental.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
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
    """An estimator of one's own that declares what ReMax does."""

    @core_algos.register_adv_est("of_the_test")
    def estimator(token_level_rewards, response_mask, reward_baselines, **kwargs):
        return (token_level_rewards + reward_baselines[:, None]) * response_mask, token_level_rewards


def _nested(rows):
    return torch.nested.as_nested_tensor([torch.as_tensor(row) for row in rows], layout=torch.jagged)


@pytest.mark.parametrize("name", ["remax", "of_the_test"])
def test_the_trainer_feeds_those_that_declare_it(declares, name):
    keys, scores = ["a_0_0", "a_1_0", "a_2_0"], [1.0, 0.0, 0.5]
    lengths = [2, 3, 1]
    per_token = [torch.linspace(0.1, 0.3, length) for length in lengths]
    fields = {
        "response_mask": _nested([torch.ones(length, dtype=torch.int64) for length in lengths]),
        "rm_scores": _nested([[0.0] * (length - 1) + [score] for length, score in zip(lengths, scores, strict=True)]),
        "old_log_probs": _nested([-row for row in per_token]),
        "uid": NonTensorStack(*"aaa"),
        "reward_baselines": torch.full((3,), 0.25),
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
    if name == "remax":
        assert advantages == [[score - 0.25] * length for score, length in zip(scores, lengths, strict=True)]
    else:
        assert advantages == [[0.25, 1.25], [0.25, 0.25, 0.25], [0.75]]


def _construct(adv_estimator, **algorithm):
    reward_model = {"enable": True, "enable_resource_pool": algorithm.pop("resource_pool", False)}
    trainer = _StubTrainer.__new__(_StubTrainer)
    algorithm = {"adv_estimator": adv_estimator, **algorithm}
    trainer.config = OmegaConf.create({"algorithm": algorithm, "reward": {"reward_model": reward_model}})
    trainer._check_adv_estimator()


@pytest.mark.parametrize("name", ["remax", "gdpo", "of_the_test"])
def test_a_reward_model_that_scores_after_sampling_is_refused(declares, name):
    with pytest.raises(ValueError, match=f"adv_estimator={name} requires rewards at sampling time"):
        _construct(name)
    _construct(name, resource_pool=True)
    _construct("grpo")


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
