"""The estimators as verl finds and calls them."""

import json
import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import compute_advantage

from tests.helpers import PROJECT
from verl_leaf.algorithm import early_metrics, find_forks, last_position
from verl_leaf.algorithm.estimators import LeafOptions
from verl_leaf.config import compose
from verl_leaf.training import estimator

GROUPS = [json.loads(line) for line in (PROJECT / "tests/algorithm/groups.jsonl").read_text().strip().split("\n")]


def as_batch(groups, field="rollout_log_probs", dtype=torch.float64):
    """Groups of the same options as verl's padded batch, rows of all groups interleaved."""
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
    """All groups of the specification in one interleaved batch, through verl's own compute_advantage."""
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
    with pytest.raises(ValueError, match=f"row {row}, prompt {index[row]}, contain NaN"):
        call(batch, index, rollout_log_probs=spoilt)


@pytest.mark.parametrize("name", [*estimator.ESTIMATORS, "grpo", "reinforce_plus_plus"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_reward_that_is_not_finite_stops_any_estimator(name, value):
    """verl's own would make every advantage of the prompt NaN, skip every update, and end as a success."""
    batch, index = as_batch(DEFAULT)
    row = 5
    batch["token_level_rewards"][row, 1] = float(value)
    message = rf"the reward of row {row}, prompt {index[row]}, is {value}, which is not finite \(1 of {len(index)} rows"
    data = DataProto(batch=TensorDict(batch, batch_size=len(index)), non_tensor_batch={"uid": index}, meta_info={})
    with pytest.raises(estimator.RewardError, match=message) as raised:
        compute_advantage(data, name, config=OmegaConf.create({}))
    assert raised.value.prompt == index[row]


def test_missing_fields_are_named():
    batch, index = as_batch(DEFAULT)
    del batch["rollout_log_probs"]
    with pytest.raises(ValueError, match="rollout_log_probs or old_log_probs in its batch, but it got responses"):
        call(batch, index)


def test_grpo_floored_is_the_papers_baseline():
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.0, 0.0], [0.2, 0.0], [0.2, 0.0]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0], [1, 0]])
    advantages, _ = core_algos.get_adv_estimator_fn("grpo_floored")(
        token_level_rewards=rewards,
        response_mask=mask,
        index=np.array(["a", "a", "a", "b", "b"], dtype=object),
        batch={"responses": torch.arange(10).view(5, 2)},
    )
    expected = torch.tensor([[1.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]])  # std of a is 0.5, of b 0
    torch.testing.assert_close(advantages, expected)


def padded_rewards(rewards):
    """A batch of one prompt whose responses are ``5 6``, ``5 7``, ``5 6`` and ``8``, by their rewards."""
    responses = torch.tensor([[5, 6], [5, 7], [5, 6], [8, 0]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0]])
    token_level_rewards = torch.zeros(4, 2, dtype=torch.float64)
    token_level_rewards[:, 0] = torch.tensor(rewards, dtype=torch.float64)
    batch = {"responses": responses, "response_mask": mask, "token_level_rewards": token_level_rewards}
    return batch, np.array(["a"] * 4, dtype=object)


def test_grpo_prefix_pays_against_the_responses_with_the_same_prefix():
    """With kappa=0 the baseline is the mean of the others that share the prefix: [5] three, [5 6] two of them."""
    batch, index = padded_rewards([1.0, 0.0, 0.5, 0.1])
    steps = []
    advantages, returns = call(
        batch, index, OmegaConf.create({"grpo_prefix": {"kappa": 0}}), name="grpo_prefix", report=steps.append
    )
    std = torch.tensor([1.0, 0.0, 0.5, 0.1]).std().item() + 1e-6
    expected = [[1 - 0.2, 1 - 0.25], [0 - 1.6 / 3, 0 - 0.75], [0.5 - 1.1 / 3, 0.5 - 0.5], [0.1 - 0.5, 0]]
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64) / std)
    assert torch.equal(advantages, returns) and steps[0].metrics["grpo_prefix/kappa"] == 0


def test_grpo_prefix_heeds_verls_switch_of_the_standard_deviation():
    """With an infinite kappa it is K / (K - 1) times verl's grpo."""
    batch, index = as_batch([group for group in DEFAULT if len(group["responses"]) > 1])
    data = DataProto(batch=TensorDict(batch, batch_size=len(index)), non_tensor_batch={"uid": index}, meta_info={})
    found = {}
    for by_std in (True, False):
        config = OmegaConf.create({"norm_adv_by_std_in_grpo": by_std, "grpo_prefix": {"kappa": math.inf}})
        for name in ("grpo", "grpo_prefix"):
            given = {"norm_adv_by_std_in_grpo": by_std, "config": config}
            found[name, by_std] = compute_advantage(data.select(), name, **given).batch["advantages"].clone()
    K = torch.tensor([list(index).count(uid) for uid in index])[:, None]
    for by_std in (True, False):
        torch.testing.assert_close(found["grpo_prefix", by_std], found["grpo", by_std] * K / (K - 1))
    assert not torch.allclose(found["grpo_prefix", True], found["grpo_prefix", False])


def test_tempo_adds_what_a_fork_is_worth():
    batch, index = padded_rewards([1.0, 0.0, 0.5, 0.1])
    advantages, _ = call(batch, index, name="tempo")
    grpo, _ = core_algos.get_adv_estimator_fn("grpo")(
        token_level_rewards=batch["token_level_rewards"], response_mask=batch["response_mask"], index=index
    )
    std = torch.tensor([1.0, 0.0, 0.5, 0.1]).std().item() + 1e-6
    worth = torch.tensor([[0.1, 0.25], [0.1, -0.5], [0.1, 0.25], [-0.3, 0]], dtype=torch.float64) / std
    torch.testing.assert_close(advantages, grpo + worth)


@pytest.mark.parametrize("name", estimator.ESTIMATORS)
def test_every_estimator_of_ours_tells_how_early_rewards_are_settled(name):
    """The same numbers under the same names, so that runs can be compared."""
    batch, index = as_batch(DEFAULT)
    steps = []
    call(batch, index, name=name, report=steps.append)
    forks = find_forks(batch["responses"], last_position(batch["response_mask"]) + 1, dense(index))
    early = early_metrics(forks, batch["token_level_rewards"].sum(-1))
    assert {key: value for key, value in steps[0].metrics.items() if key.startswith("forks/")} == {
        "forks/early": pytest.approx(early["early"]),
        "forks/early_pairs": pytest.approx(early["early_pairs"]),
    }


@pytest.mark.parametrize("name", estimator.ESTIMATORS)
def test_what_rejection_sampling_takes_out_stays_in_the_tree(name):
    """verl's rollout_rs takes a response, or tokens, out of response_mask; they still tell where responses part.

    Also the tokens at which LEAF cuts: the surprisal of a rejected token is real, that of a tool's is not.
    """
    tokens = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 4, 9], [5, 6, 3, 8, 9], [5, 6, 7, 8, 2], [5, 6, 0, 0, 0]])
    rewards = torch.zeros(5, 5, dtype=torch.float64)
    rewards[:, 0] = torch.tensor([1.0, 0.5, 0.0, 0.8, 0.3])
    log_probs = torch.zeros(5, 5)
    log_probs[2, 2], log_probs[3, 4] = -2.0, -1.0  # where LEAF cuts
    mask = torch.ones(5, 5)
    mask[4, 2:] = 0
    batch = {
        "token_level_rewards": rewards,
        "responses": tokens,
        "rollout_log_probs": log_probs,
    }
    index = np.array(["a"] * 5, dtype=object)
    whole, kept = [], []
    before, _ = call(batch, index, name=name, report=whole.append, response_mask=mask.clone())
    batch["attention_mask"] = torch.cat([torch.tensor([[0, 1, 1]] * 5), mask.long()], dim=1)
    batch[estimator.WRITTEN_MASK] = mask.clone()
    mask[1] = 0
    mask[0, 3:] = 0
    mask[2, 2] = mask[3, 4] = 0
    after, _ = call(batch, index, name=name, report=kept.append, response_mask=mask)
    assert before[1].any()
    torch.testing.assert_close(after, before * mask)
    assert whole[0].metrics["forks/early"] == kept[0].metrics["forks/early"] > 0


def dense(index):
    return torch.tensor([sorted(set(index)).index(uid) for uid in index])


@pytest.mark.parametrize("kappa", ["automatic", "5", True, -1, float("nan"), None, [1]])
def test_a_bad_kappa_is_named(kappa):
    with pytest.raises(
        ValueError, match="algorithm.grpo_prefix.kappa=.* is not valid. Valid values are auto and numbers of 0 or more"
    ):
        estimator.read_options("grpo_prefix", {"grpo_prefix": {"kappa": kappa}})


@pytest.mark.parametrize("kappa", ["auto", 0, 2, 0.5, float("inf")])
def test_a_good_kappa_is_taken(kappa):
    assert estimator.read_options("grpo_prefix", {"grpo_prefix": {"kappa": kappa}}).kappa == kappa


def test_a_step_is_reported():
    batch, index = as_batch(DEFAULT)
    steps = []
    advantages, _ = call(batch, index, report=steps.append)
    (step,) = steps
    assert len(step.metrics) >= 9 and all(name.startswith(("leaf/", "forks/")) for name in step.metrics)
    assert all(type(value) is float for value in step.metrics.values())
    assert 0 < step.metrics["leaf/seconds"] < 60
    assert torch.equal(step.credit.advantages, advantages) and torch.equal(step.rollouts.tokens, batch["responses"])


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
            "algorithm.leaf has no option deep, forks. Its options are fork_budget, min_prefix_tokens, credit, ",
        ),
        ({"fork_budget": -1}, "algorithm.leaf.fork_budget=-1 is not valid. Valid values are integers of 0 or more"),
        ({"fork_budget": True}, "algorithm.leaf.fork_budget=True is not valid. Valid values are integers of 0 or more"),
        (
            {"min_prefix_tokens": 1.0},
            "algorithm.leaf.min_prefix_tokens=1.0 is not valid. Valid values are integers of 0 or more",
        ),
        ({"trace_every": 0}, "algorithm.leaf.trace_every=0 is not valid. Valid values are integers of 1 or more"),
        ({"trace_every": "2"}, "algorithm.leaf.trace_every='2' is not valid. Valid values are integers of 1 or more"),
        ({"trace_dir": 7}, "algorithm.leaf.trace_dir=7 is not valid. Valid values are the path of a folder, and null"),
        ({"credit": None}, "algorithm.leaf.credit=None is not valid. Valid values are both, global, local"),
        ({"surprisal": "new"}, "algorithm.leaf.surprisal='new' is not valid. Valid values are rollout, old"),
        (3, "algorithm.leaf=3: give a mapping of options to values"),
    ],
)
def test_a_bad_option_is_named_with_the_valid_ones(given, message):
    with pytest.raises(ValueError, match="algorithm") as raised:
        estimator.read_options("leaf", OmegaConf.create({"leaf": given}))
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_the_configurations_defaults_are_the_options_own():
    algorithm = compose("leaf", []).algorithm
    assert algorithm.leaf.fork_budget == 2 and algorithm.grpo_prefix.kappa == "auto"
    for name, row in estimator.ESTIMATORS.items():
        assert estimator.read_options(name, algorithm) == row.options()
        assert set(algorithm.get(name, {})) == set(row.options.by_name())


def test_options_that_are_not_given_have_the_papers_values():
    for config in (None, OmegaConf.create({}), OmegaConf.create({"leaf": None}), {"leaf": {}}):
        assert estimator.read_options("leaf", config) == LeafOptions(fork_budget=2, min_prefix_tokens=1)
    assert estimator.read_options("leaf", {"leaf": {"fork_budget": 0}}).fork_budget == 0
