"""LEAF gets the responses in verl's trainers, and what it says about a step reaches their metrics."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo import core_algos, ray_trainer
from verl.trainer.ppo.v1 import PPOTrainerSync, trainer_base
from verl.utils import tensordict_utils

from verl_leaf.algorithm import leaf_advantages
from verl_leaf.patches import STATUS
from verl_leaf.patches.advantage_batch import SOLVED, in_words
from verl_leaf.training import estimator

RESPONSES = [[5, 6, 7, 8], [5, 6, 7], [5, 9, 7, 8], [5, 6, 2, 8]]
REWARDS = [1.0, 0.5, 0.0, 0.8]
LOG_PROBS = torch.tensor([[-0.1, -0.2, -2.0, -0.1]] * 4)


@pytest.fixture
def data():
    """A batch of one prompt, as the legacy trainer hands it to compute_advantage."""
    mask = torch.tensor([[1.0, 1, 1, t < len(response)] for response in RESPONSES for t in [3]])
    rewards = torch.zeros(4, 4)
    rewards[:, 2] = torch.tensor(REWARDS)
    responses = torch.tensor([response + [0] * (4 - len(response)) for response in RESPONSES])
    batch = {
        "responses": responses,
        "response_mask": mask,
        "token_level_rewards": rewards,
        "token_level_scores": rewards,
        "rollout_log_probs": LOG_PROBS,
    }
    uid = np.array(["a"] * 4, dtype=object)
    return DataProto(batch=TensorDict(batch, batch_size=4), non_tensor_batch={"uid": uid}, meta_info={})


def expected(data):
    batch = data.batch
    rewards, mask = batch["token_level_rewards"].sum(-1), batch["response_mask"].bool()
    group = torch.zeros(4, dtype=torch.int64)
    return leaf_advantages(batch["responses"], -batch["rollout_log_probs"], rewards, mask, group).advantages


def test_verl_hands_an_estimator_no_batch(data):
    if STATUS["advantage_batch", "verl.trainer.ppo.ray_trainer"] != SOLVED:
        with pytest.raises(TypeError, match="batch"):
            ray_trainer.compute_advantage.__wrapped__(data, "leaf", config=OmegaConf.create({}))
    result = ray_trainer.compute_advantage(data, "leaf", config=OmegaConf.create({}))
    torch.testing.assert_close(result.batch["advantages"], expected(data))


def test_verls_own_estimators_are_as_they_were(data):
    for name in ("grpo", "reinforce_plus_plus", "rloo"):
        config = OmegaConf.create({"gamma": 1.0})
        ours = ray_trainer.compute_advantage(data.select(), name, config=config)
        stock = ray_trainer.compute_advantage.__wrapped__(data.select(), name, config=config)
        torch.testing.assert_close(ours.batch["advantages"], stock.batch["advantages"])
        assert ours.meta_info == {}


def test_nothing_is_left_bound_after_a_call_that_fails(data):
    find, registered = core_algos.get_adv_estimator_fn, dict(core_algos.ADV_ESTIMATOR_REGISTRY)
    with pytest.raises(ValueError, match="has no option"):
        ray_trainer.compute_advantage(data, "leaf", config=OmegaConf.create({"leaf": {"forks": 1}}))
    assert core_algos.get_adv_estimator_fn is find and registered == core_algos.ADV_ESTIMATOR_REGISTRY


def test_the_legacy_trainers_metrics_have_what_leaf_says(data):
    result = ray_trainer.compute_advantage(data, "leaf", config=OmegaConf.create({}))
    result.batch["prompts"] = torch.ones(4, 2, dtype=torch.int64)
    result.batch["attention_mask"] = torch.cat([torch.ones(4, 2), result.batch["response_mask"]], dim=1)
    metrics = ray_trainer.compute_data_metrics(batch=result, use_critic=False)
    assert metrics["leaf/boundaries_per_prompt"] == 1 and "critic/score/mean" in metrics
    (name,) = result.meta_info
    sent = pickle.loads(pickle.dumps(result.to_tensordict()))  # as the trainer sends it on to its workers
    assert tensordict_utils.get(sent, name) == result.meta_info[name]
    json.dumps(result.meta_info)  # plain


def test_a_prompt_is_named_without_its_bytes():
    clip = {"type": "audio", "audio": {"bytes": b"RIFF", "path": "a.wav"}}
    samples = {"type": "audio", "audio": {"array": [0.0], "sampling_rate": 16000}}
    content = [clip, samples, {"type": "audio", "audio": "/b.wav"}, {"type": "text", "text": "and?"}]
    messages = [{"role": "system", "content": "Listen."}, {"role": "user", "content": content}]
    assert in_words(messages) == "'Listen. a.wav (audio) /b.wav and?'"
    assert in_words([{"role": "user", "content": "x" * 301}]) == repr("x" * 300 + "...")


@pytest.fixture
def trainer(queue, data, monkeypatch):
    """verl's V1 trainer as it computes advantages, its batch in a real queue: what other steps need is left out."""
    trainer = PPOTrainerSync.__new__(PPOTrainerSync)
    algorithm = {"adv_estimator": "leaf", "use_kl_in_reward": False, "gamma": 1.0, "lam": 1.0, "leaf": {}}
    trainer.config = OmegaConf.create({"algorithm": algorithm, "actor_rollout_ref": {"rollout": {"n": 4}}})
    trainer.global_steps, trainer.local_trigger_step, trainer.tokenizer = 10, 0, None
    monkeypatch.setattr(trainer_base, "tq", queue)

    def put(rewards=REWARDS):
        lengths = [len(response) for response in RESPONSES]

        def nested(rows):
            return torch.nested.as_nested_tensor(
                [torch.as_tensor(row)[:n] for row, n in zip(rows, lengths, strict=True)], layout=torch.jagged
            )

        scores = torch.zeros(4, 4)
        scores[:, 2] = torch.tensor(rewards)
        fields = TensorDict(
            {
                "responses": nested(data.batch["responses"]),
                "response_mask": nested(torch.ones(4, 4)),
                "rm_scores": nested(scores),
                "rollout_log_probs": nested(LOG_PROBS),
                "old_log_probs": nested(LOG_PROBS),
                "prompts": torch.nested.as_nested_tensor([torch.tensor([1, 2])] * 4, layout=torch.jagged),
            },
            batch_size=4,
        )
        for name, value in {
            "uid": "a",
            "raw_prompt": [{"role": "user", "content": "Was ist das?"}],
            "data_source": "test",
            "reward_model": {"ground_truth": "ja"},
        }.items():
            fields[name] = np.array([value] * 4 + [None], dtype=object)[:4]
        tags = [{"seq_len": 6}] * 4
        return queue.kv_batch_put(keys=[f"a_{n}_0" for n in range(4)], partition_id="train", fields=fields, tags=tags)

    yield SimpleNamespace(trainer=trainer, put=put, queue=queue)
    queue.kv_clear(keys=[f"a_{n}_0" for n in range(4)], partition_id="train")


@pytest.mark.e2e
def test_the_v1_trainer_gets_leafs_advantages_and_metrics(trainer, data):
    batch, metrics = trainer.put(), {}
    compute = trainer_base.compute_advantage_for_multi_trajectories
    result = trainer.trainer._compute_advantage(batch, metrics)
    assert metrics["leaf/boundaries_per_prompt"] == 1
    stored = trainer.queue.kv_batch_get(keys=result.keys, partition_id="train", select_fields=["advantages"])
    torch.testing.assert_close(stored["advantages"].to_padded_tensor(0.0), expected(data))
    assert trainer_base.compute_advantage_for_multi_trajectories is compute


@pytest.mark.e2e
def test_a_response_that_is_rejected_stays_in_the_tree_of_the_v1_trainer(trainer, data, monkeypatch):
    """The shorter one, which LEAF would take for empty."""
    batch, mask = trainer.put(), torch.ones(4, 4)
    mask[1] = 0

    def reject(data, config):
        data.batch["response_mask"] = data.batch["response_mask"] * mask
        return data, {}

    monkeypatch.setattr(trainer_base, "compute_rollout_correction_and_add_to_batch", reject)
    trainer.trainer.config.algorithm.rollout_correction = {"rollout_rs": "seq_mean_k1"}
    result = trainer.trainer._compute_advantage(batch, {})
    stored = trainer.queue.kv_batch_get(keys=result.keys, partition_id="train", select_fields=["advantages"])
    torch.testing.assert_close(stored["advantages"].to_padded_tensor(0.0), expected(data) * mask)


@pytest.mark.e2e
def test_several_outputs_of_a_session_are_refused(trainer):
    batch = trainer.put()
    batch.keys[1] = "a_0_1"
    with pytest.raises(ValueError, match="adv_estimator=leaf does not go with an agent loop that has several outputs"):
        trainer.trainer._compute_advantage(batch, {})


@pytest.mark.e2e
@pytest.mark.parametrize("name", [*estimator.ESTIMATORS, "grpo"])
def test_a_reward_that_is_not_finite_names_its_prompt(trainer, name):
    trainer.trainer.config.algorithm.adv_estimator = name
    batch = trainer.put(rewards=[1.0, 0.5, float("inf"), 0.8])
    with pytest.raises(estimator.RewardError, match="row 2, prompt a, is inf, .*The prompt: .*Was ist das"):
        trainer.trainer._compute_advantage(batch, {})
