"""The estimators as veRL finds and calls them."""

import json
from typing import get_args

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import compute_advantage

from tests.helpers import PROJECT
from verl_leaf import estimator
from verl_leaf.algorithm import CREDITS

GROUPS = [json.loads(line) for line in (PROJECT / "tests/algorithm/groups.jsonl").read_text().splitlines()]


def as_batch(groups, field="rollout_log_probs", dtype=torch.float64):
    """Groups of the same options as veRL's padded batch, rows of all groups interleaved."""
    rows = [
        (number, response, surprisal, reward)
        for number, group in enumerate(groups)
        for response, surprisal, reward in zip(group["responses"], group["surprisal"], group["rewards"], strict=True)
    ]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    # Within a group the order decides ties, so it is kept.
    order.sort(key=lambda i: (sum(rows[j][0] == rows[i][0] for j in range(i)), rows[i][0]))
    rows = [rows[i] for i in order]
    length = max(len(row[1]) for row in rows) + 3

    def padded(values, dtype):
        out = torch.zeros(len(rows), length, dtype=dtype)
        for i, row in enumerate(values):
            out[i, : len(row)] = torch.tensor(row, dtype=dtype)
        return out

    mask = padded([[1] * len(row[1]) for row in rows], torch.int64)
    rewards = torch.zeros(len(rows), length, dtype=dtype)
    for i, row in enumerate(rows):
        rewards[i, max(len(row[1]) - 1, 0)] = row[3]
    batch = {
        "token_level_rewards": rewards,
        "response_mask": mask,
        "responses": padded([row[1] for row in rows], torch.int64),
        field: padded([[-s for s in row[2]] for row in rows], dtype),
    }
    return batch, np.array([f"prompt-{row[0]}" for row in rows], dtype=object)


def expected(groups, index, shape):
    out = torch.zeros(shape, dtype=torch.float64)
    seen: dict = {}
    for i, uid in enumerate(index):
        group = groups[int(uid.split("-")[1])]
        k = seen[uid] = seen.get(uid, -1) + 1
        out[i, : len(group["advantages"][k])] = torch.tensor(group["advantages"][k], dtype=torch.float64)
    return out


def options_of(group):
    return group["fork_budget"], group["min_prefix_tokens"], group["credit"]


@pytest.mark.parametrize("options", sorted({options_of(group) for group in GROUPS}))
def test_published_groups_through_verl(options):
    """All groups of the specification in one interleaved batch, through veRL's own compute_advantage."""
    groups = [group for group in GROUPS if options_of(group) == options]
    batch, index = as_batch(groups)
    data = DataProto(batch=TensorDict(batch, batch_size=len(index)), non_tensor_batch={"uid": index}, meta_info={})
    config = OmegaConf.create({"leaf": dict(zip(("fork_budget", "min_prefix_tokens", "credit"), options, strict=True))})
    result = compute_advantage(data, "leaf", config=config).batch
    torch.testing.assert_close(
        result["advantages"], expected(groups, index, batch["responses"].shape), rtol=0, atol=1e-6
    )
    assert torch.equal(result["advantages"], result["returns"])


def call(batch, index, config=None, name="leaf", report=None, **changes):
    batch = {**batch, **changes}
    rewards, mask = batch.pop("token_level_rewards"), batch.pop("response_mask")
    return core_algos.get_adv_estimator_fn(name)(
        token_level_rewards=rewards, response_mask=mask, index=index, config=config, batch=batch, report=report
    )


DEFAULT = [group for group in GROUPS if options_of(group) == (2, 1, "both")]


def test_old_log_probs_serve_where_the_engine_gave_none():
    batch, index = as_batch(DEFAULT, field="old_log_probs")
    advantages, _ = call(batch, index)
    torch.testing.assert_close(advantages, expected(DEFAULT, index, advantages.shape), rtol=0, atol=1e-6)


def test_surprisal_option_takes_the_actors_log_probs():
    batch, index = as_batch(DEFAULT, field="old_log_probs")
    config = OmegaConf.create({"leaf": {"surprisal": "old"}})
    advantages, _ = call(batch, index, config, rollout_log_probs=torch.zeros_like(batch["old_log_probs"]))
    torch.testing.assert_close(advantages, expected(DEFAULT, index, advantages.shape), rtol=0, atol=1e-6)


def test_dtype_of_the_rewards_is_kept():
    batch, index = as_batch(DEFAULT, dtype=torch.float32)
    assert call(batch, index)[0].dtype == torch.float32


def test_nan_log_probabilities_name_the_prompt_and_the_row():
    batch, index = as_batch(DEFAULT)
    row = 5
    spoilt = batch["rollout_log_probs"].clone()
    spoilt[row, 0] = float("nan")
    with pytest.raises(ValueError, match=f"row {row}, prompt {index[row]}, hold NaN"):
        call(batch, index, rollout_log_probs=spoilt)


@pytest.mark.parametrize("name", [*estimator.ESTIMATORS, "grpo", "reinforce_plus_plus"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_reward_that_is_not_finite_stops_any_estimator(name, value):
    """verl's own would make every advantage of the prompt NaN, skip every update, and end as a success."""
    batch, index = as_batch(DEFAULT)
    row = 5
    batch["token_level_rewards"][row, 1] = float(value)
    message = rf"the reward of row {row}, prompt {index[row]}, is {value}, not a finite number \(1 of {len(index)} rows"
    data = DataProto(batch=TensorDict(batch, batch_size=len(index)), non_tensor_batch={"uid": index}, meta_info={})
    with pytest.raises(ValueError, match=message):
        compute_advantage(data, name, config=OmegaConf.create({}))


@pytest.mark.parametrize("name", estimator.ESTIMATORS)
def test_our_estimators_refuse_such_a_reward_from_any_caller(name):
    batch, index = as_batch(DEFAULT)
    batch["token_level_rewards"][5, 1] = float("inf")
    with pytest.raises(estimator.RewardError, match="is inf, not a finite number") as raised:
        call(batch, index, name=name)
    assert raised.value.row == 5


def test_missing_fields_are_named():
    batch, index = as_batch(DEFAULT)
    del batch["rollout_log_probs"]
    with pytest.raises(ValueError, match="rollout_log_probs or old_log_probs in its batch; it was given responses"):
        call(batch, index)


def test_grpo_floored_is_the_papers_baseline():
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.0, 0.0], [0.2, 0.0], [0.2, 0.0]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0], [1, 0]])
    advantages, _ = core_algos.get_adv_estimator_fn("grpo_floored")(
        token_level_rewards=rewards, response_mask=mask, index=np.array(["a", "a", "a", "b", "b"], dtype=object)
    )
    expected = torch.tensor([[1.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]])  # std of a is 0.5, of b 0
    torch.testing.assert_close(advantages, expected)


def test_a_step_is_reported():
    batch, index = as_batch(DEFAULT)
    steps = []
    advantages, _ = call(batch, index, report=steps.append)
    (step,) = steps
    assert len(step.metrics) >= 9 and all(name.startswith("leaf/") for name in step.metrics)
    assert all(type(value) is float for value in step.metrics.values())
    assert 0 < step.metrics["leaf/seconds"] < 60
    assert torch.equal(step.trees.result.advantages, advantages) and torch.equal(
        step.trees.responses, batch["responses"]
    )


def test_metrics_of_a_step_go_with_its_data_as_plain_numbers():
    """verl's legacy trainer sends meta_info on to its workers."""
    batch, index = as_batch(DEFAULT)
    data = DataProto(batch=TensorDict(batch, batch_size=len(index)), non_tensor_batch={"uid": index}, meta_info={})
    (metrics,) = compute_advantage(data, "leaf", config=OmegaConf.create({})).meta_info.values()
    assert len(metrics) >= 9 and all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize(
    "given, message",
    [
        (
            {"forks": 3, "deep": 1},
            "algorithm.leaf has no option deep, forks; valid: fork_budget, min_prefix_tokens, credit, ",
        ),
        ({"fork_budget": -1}, "algorithm.leaf.fork_budget=-1: valid are the integers from 0 on"),
        ({"fork_budget": True}, "algorithm.leaf.fork_budget=True: valid are the integers from 0 on"),
        ({"min_prefix_tokens": 1.0}, "algorithm.leaf.min_prefix_tokens=1.0: valid are the integers from 0 on"),
        ({"trace_every": 0}, "algorithm.leaf.trace_every=0: valid are the integers from 1 on"),
        ({"trace_every": "2"}, "algorithm.leaf.trace_every='2': valid are the integers from 1 on"),
        ({"trace_dir": 7}, "algorithm.leaf.trace_dir=7: valid are the path of a folder, and null"),
        ({"credit": None}, "algorithm.leaf.credit=None: valid are both, global, local"),
        ({"surprisal": "new"}, "algorithm.leaf.surprisal='new': valid are rollout, old"),
        (3, "algorithm.leaf=3: must be a mapping of options to values"),
    ],
)
def test_a_bad_option_is_named_with_the_valid_ones(given, message):
    with pytest.raises(ValueError, match="algorithm") as raised:
        estimator.LeafOptions.parse(OmegaConf.create({"leaf": given}))
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_options_that_are_not_given_have_the_papers_values():
    for config in (None, OmegaConf.create({}), OmegaConf.create({"leaf": None}), {"leaf": {}}):
        assert estimator.LeafOptions.parse(config) == estimator.LeafOptions(fork_budget=2, min_prefix_tokens=1)
    assert estimator.LeafOptions.parse({"leaf": {"fork_budget": 0}}).fork_budget == 0
    assert get_args(estimator.LeafOptions.model_fields["credit"].annotation) == CREDITS
