"""The estimators as veRL finds and calls them."""

import json

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

GROUPS = [json.loads(line) for line in open(PROJECT / "tests/algorithm/groups.jsonl")]


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


def call(batch, index, config=None, **changes):
    batch = {**batch, **changes}
    rewards, mask = batch.pop("token_level_rewards"), batch.pop("response_mask")
    return core_algos.get_adv_estimator_fn("leaf")(
        token_level_rewards=rewards, response_mask=mask, index=index, config=config, batch=batch
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


def test_nan_names_the_prompt_and_the_row():
    batch, index = as_batch(DEFAULT)
    row = 5
    for field in ("rollout_log_probs", "token_level_rewards"):
        spoilt = batch[field].clone()
        spoilt[row, 0] = float("nan")
        with pytest.raises(ValueError, match=f"row {row}, prompt {index[row]}, hold NaN"):
            call(batch, index, **{field: spoilt})


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


def test_a_step_is_taken_once():
    batch, index = as_batch(DEFAULT)
    estimator.take_step()
    call(batch, index)
    metrics = estimator.take_step().metrics
    assert len(metrics) >= 9 and all(name.startswith("leaf/") for name in metrics)
    assert 0 < metrics["leaf/seconds"] < 60
    assert estimator.take_step() is None
