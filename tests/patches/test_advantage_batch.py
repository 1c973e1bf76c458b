"""LEAF gets the batch from verl, and what it says about a step reaches the legacy trainer's metrics."""

import json
import pickle

import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo import core_algos, ray_trainer
from verl.utils import tensordict_utils

from tests.helpers.one_prompt import expected, one_prompt
from verl_leaf.patches import STATUS
from verl_leaf.patches.advantage_batch import SOLVED


@pytest.fixture
def data():
    return one_prompt()


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
