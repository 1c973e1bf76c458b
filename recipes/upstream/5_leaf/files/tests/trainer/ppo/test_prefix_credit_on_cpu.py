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
"""LEAF and the prefix baseline: the paper's numbers, a slow reference, the policy gradient, and verl's own call."""

import itertools

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict

from verl import DataProto
from verl.trainer.ppo import core_algos, prefix_credit
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

REGISTRY = dict(core_algos.ADV_ESTIMATOR_REGISTRY)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """The estimators of verl, whatever other tests have left of them (test_core_algos_on_cpu.py clears them)."""
    monkeypatch.setattr(core_algos, "ADV_ESTIMATOR_REGISTRY", dict(REGISTRY))


def _batch(groups, width=None):
    """A batch of prompts, each a list of (tokens, log-probabilities, reward); rows of prompts take turns."""
    rows = [(uid, *response) for uid, group in enumerate(groups) for response in group]
    rows.sort(key=lambda row: len(row[1]), reverse=True)
    width = width or max(len(tokens) for _, tokens, _, _ in rows)
    responses = torch.full((len(rows), width), 99)
    log_probs, mask, rewards = (
        torch.zeros(len(rows), width),
        torch.zeros(len(rows), width),
        torch.zeros(len(rows), width),
    )
    for row, (_, tokens, log_prob, reward) in enumerate(rows):
        responses[row, : len(tokens)] = torch.tensor(tokens)
        log_probs[row, : len(tokens)] = torch.tensor(log_prob)
        mask[row, : len(tokens)] = 1
        rewards[row, max(len(tokens) - 1, 0)] = reward
    fields = {
        "responses": responses,
        "rollout_log_probs": log_probs,
        "response_mask": mask,
        "token_level_rewards": rewards,
    }
    return DataProto(
        batch=TensorDict(fields, batch_size=len(rows)),
        non_tensor_batch={"uid": np.array([f"prompt {uid}" for uid, *_ in rows], dtype=object)},
    ), rows


def _advantages(data, name, **config):
    algorithm = OmegaConf.create({"adv_estimator": name, "norm_adv_by_std_in_grpo": True, **config})
    return compute_advantage(data, adv_estimator=name, config=algorithm).batch["advantages"]


# The worked example of LEAF: boundaries at 2 and 4, a node of four responses and one of two.
TOKENS = [[5, 6, 7, 8, 9], [5, 6, 7, 4, 9], [5, 6, 3, 8, 9], [5, 6, 7, 8, 2]]
SURPRISAL = [[0.1, 0.2, 0.9, 1.5, 0.1], [0.1, 0.2, 0.9, 2.0, 0.2], [0.1, 0.2, 2.5, 0.3, 0.1], [0.1, 0.2, 0.9, 1.5, 1.2]]
REWARDS = [1.0, 0.5, 0.0, 0.8]
EXAMPLE = [(y, [-x for x in s], r) for y, s, r in zip(TOKENS, SURPRISAL, REWARDS, strict=True)]
LEAF_OF_EXAMPLE = [
    [-0.0564, -0.0564, 0.9063, 0.9063, 1.0432],
    [-0.0564, -0.0564, -0.3706, -0.3706, -0.3706],
    [-0.0564, -0.0564, -2.4651, -2.4651, -2.4651],
    [-0.0564, -0.0564, 0.9063, 0.9063, 0.2054],
]


def test_the_worked_example():
    data, _ = _batch([EXAMPLE], width=7)
    advantages = _advantages(data, "leaf", leaf={"fork_budget": 2})
    torch.testing.assert_close(advantages[:, :5], torch.tensor(LEAF_OF_EXAMPLE), atol=5e-5, rtol=0)
    assert not advantages[:, 5:].any()


def test_prompts_do_not_mix():
    other = [(tokens, log_probs, -3 * reward) for tokens, log_probs, reward in EXAMPLE]
    data, rows = _batch([other, EXAMPLE])
    advantages = _advantages(data, "leaf")
    mine = [row for row, (uid, *_) in enumerate(rows) if uid == 1]
    torch.testing.assert_close(advantages[mine], torch.tensor(LEAF_OF_EXAMPLE), atol=5e-5, rtol=0)


@pytest.mark.parametrize("name, scale", [("leaf", 1), ("grpo_prefix", 4 / 3)])
def test_without_cuts_and_with_infinite_shrinkage_both_are_grpo(name, scale):
    data, _ = _batch([EXAMPLE])
    mask = data.batch["response_mask"]
    grpo, _ = core_algos.compute_grpo_outcome_advantage(
        data.batch["token_level_rewards"], mask, data.non_tensor_batch["uid"], norm_adv_by_std_in_grpo=True
    )
    advantages = _advantages(data, name, leaf={"fork_budget": 0}, grpo_prefix={"kappa": float("inf")})
    torch.testing.assert_close(advantages, scale * grpo, atol=1e-5, rtol=0)


# A slow reference, straight from the definitions


def _alike(responses, i, t):
    """The responses whose first t tokens are those of i, in full where they have fewer."""
    return [k for k, y in enumerate(responses) if y and y[:t] == responses[i][:t]]


def _slow_leaf(responses, surprisal, rewards, fork_budget, min_prefix_tokens, credit):
    lengths = [len(y) for y in responses if y]
    distance = max(2, min(lengths) // (fork_budget + 1)) if lengths else 2
    pairs = [(-s[p], i, p) for i, s in enumerate(surprisal) for p in range(max(1, min_prefix_tokens), len(s))]
    boundaries = []
    for _, _, p in sorted(pairs):
        if len(boundaries) < fork_budget and all(abs(p - q) >= distance for q in boundaries):
            boundaries.append(p)
    root = np.mean(rewards)

    def compare(value, parent):
        return {"both": 2 * value - root - parent, "global": value - root, "local": value - parent}[credit]

    spans = []
    for i, y in enumerate(responses):
        start, parent = 0, root
        for p in sorted(boundaries):
            node = _alike(responses, i, p) if y else []
            if len(node) > 1:
                value = np.mean([rewards[k] for k in node])
                spans.append((i, start, p, compare(value, parent) / np.sqrt(len(node))))
                start, parent = p, value
        if len(y) > start:
            spans.append((i, start, len(y), compare(rewards[i], parent)))
    credits = np.array([span[-1] for span in spans])
    advantages = [[0.0] * len(y) for y in responses]
    for (i, start, end, _), value in zip(spans, credits - credits.mean() if spans else [], strict=True):
        value /= max(credits.std(ddof=1) if len(credits) > 1 else 0.0, 1e-6)
        for t in range(start, min(end, len(responses[i]))):
            advantages[i][t] = value
    return advantages


def _slow_prefix(responses, rewards, kappa):
    std = np.std(rewards, ddof=1) if len(rewards) > 1 else 0.0
    advantages = []
    for i, y in enumerate(responses):
        others = [k for k in range(len(rewards)) if k != i]
        b, before = np.mean([rewards[k] for k in others]) if others else rewards[i], len(others)
        advantages.append([])
        for t in range(len(y)):
            alike = [k for k in others if len(responses[k]) >= t and responses[k][:t] == y[:t]]
            if 0 < len(alike) < before:
                b = b + len(alike) / (len(alike) + kappa) * (np.mean([rewards[k] for k in alike]) - b)
            before = len(alike)
            advantages[-1].append((rewards[i] - b) / (std + 1e-6))
    return advantages


def _random_groups(seed):
    generator = np.random.default_rng(seed)
    groups = []
    for _ in range(4):
        responses = [
            generator.integers(0, 3, size=generator.integers(0, 6)).tolist() for _ in range(generator.integers(1, 9))
        ]
        seen = {}  # one log-probability for each prefix, as a policy has it
        log_probs = [
            [-seen.setdefault(tuple(y[: t + 1]), float(np.float32(generator.random()))) for t in range(len(y))]
            for y in responses
        ]
        rewards = generator.choice([0.0, 0.25, 1.0], size=len(responses)).tolist()
        groups.append(list(zip(responses, log_probs, rewards, strict=True)))
    return groups


def _expected(groups, rows, width, reference):
    """What a reference gives for each prompt, in the rows of the batch; rows of a prompt keep their order there."""
    expected = torch.zeros(len(rows), width)
    for uid in range(len(groups)):
        mine = [row for row, (owner, *_) in enumerate(rows) if owner == uid]
        for row, values in zip(mine, reference([rows[row][1:] for row in mine]), strict=True):
            expected[row, : len(values)] = torch.tensor(values)
    return expected


@pytest.mark.parametrize("seed", range(12))
def test_random_groups_agree_with_the_definitions(seed):
    groups = _random_groups(seed)
    data, rows = _batch(groups, width=6)
    options = {"fork_budget": seed % 4, "min_prefix_tokens": seed % 3, "credit": ("both", "global", "local")[seed % 3]}

    def leaf(group):
        tokens, log_probs, rewards = zip(*group, strict=True)
        return _slow_leaf(list(tokens), [[-x for x in row] for row in log_probs], rewards, **options)

    advantages = _advantages(data, "leaf", leaf=options)
    torch.testing.assert_close(advantages, _expected(groups, rows, 6, leaf), atol=1e-5, rtol=0)

    kappa = (0.0, 0.5, 4)[seed % 3]

    def prefix(group):
        tokens, _, rewards = zip(*group, strict=True)
        return _slow_prefix(list(tokens), rewards, kappa)

    advantages = _advantages(data, "grpo_prefix", grpo_prefix={"kappa": kappa})
    torch.testing.assert_close(advantages, _expected(groups, rows, 6, prefix), atol=1e-5, rtol=0)


# Properties


@pytest.mark.parametrize("kappa", [0.0, 1.5])
def test_the_prefix_baseline_leaves_the_gradient_unbiased(kappa):
    """Enumerated: the expectation over all groups of three responses of two tokens is three times the gradient."""
    K = 3
    logits = torch.tensor([[0.3, -0.2], [1.0, 0.1], [-0.5, 0.4]], dtype=torch.float64, requires_grad=True)
    responses = list(itertools.product(range(2), repeat=2))
    reward = dict(zip(responses, [1.0, 0.2, 0.0, 0.7], strict=True))
    log_p = torch.log_softmax(logits, dim=-1)
    token_log_probs = {y: torch.stack([log_p[0, y[0]], log_p[1 + y[0], y[1]]]) for y in responses}
    gain = sum(token_log_probs[y].sum().exp() * reward[y] for y in responses)
    (expected,) = torch.autograd.grad(gain, logits, retain_graph=True)
    total = 0
    for drawn in itertools.product(responses, repeat=K):
        data, rows = _batch([[(list(y), [0.0, 0.0], reward[y]) for y in drawn]])
        data.batch["token_level_rewards"] = data.batch["token_level_rewards"].double()
        advantages = _advantages(data, "grpo_prefix", grpo_prefix={"kappa": kappa}, norm_adv_by_std_in_grpo=False)
        probability = sum(token_log_probs[y].sum() for y in drawn).exp().detach()
        for row, values in enumerate(advantages):
            total = total + probability * (values * token_log_probs[tuple(rows[row][1])]).sum()
    (found,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(found, K * expected, atol=1e-7, rtol=0)


def _groups(data, surprisal=None):
    fields = data.batch
    rewards = fields["token_level_rewards"].sum(dim=-1)
    uid = data.non_tensor_batch["uid"]
    return prefix_credit.response_groups(fields["responses"], fields["response_mask"], rewards, uid, surprisal)


def test_kappa_is_estimated_from_what_late_pairs_say():
    def kappa(rewards):
        prompt = [(y, [0.0, 0.0], r) for y, r in zip([[0, 0], [0, 1], [1, 0], [1, 1]], rewards, strict=True)]
        data, _ = _batch([prompt] * 9)
        return prefix_credit.estimate_kappa(_groups(data))

    # Of a prompt's six pairs, four part at the first token. It settles all, half, or nothing of the reward.
    between = 0.5 * 12 / (12 + 10)  # T = 1 / 2, and a prompt has the weight 4 * 2 / 6
    assert kappa([0, 0, 1, 1]) == pytest.approx((0.5 - between) / between, rel=1e-6)
    assert kappa([0, 0, 1, 1]) < kappa([0, 0.5, 0.75, 1.25]) < np.inf
    assert kappa([0, 1, 0, 1]) == kappa([1, 1, 1, 1]) == np.inf


def test_tokens_of_a_tool_count_in_prefixes_and_are_never_a_cut():
    data, _ = _batch([EXAMPLE])
    data.batch["response_mask"][:, 2] = 0  # the highest surprisal stands there; the next is that at 3
    (group,) = _groups(data, surprisal=-data.batch["rollout_log_probs"])
    assert prefix_credit.select_boundaries(group, 2, 1) == [1, 3]
    advantages = _advantages(data, "leaf")
    assert not advantages[:, 2].any() and advantages[:, 3].any()


@pytest.mark.parametrize("name", ["leaf", "grpo_prefix"])
def test_what_rejection_sampling_takes_out_stays_in_the_tree(name):
    group = [*EXAMPLE, ([5, 6], [-0.1, -0.2], 0.3)]
    data, _ = _batch([group])
    mask = data.batch["response_mask"]
    before = _advantages(data, name)
    data.batch["attention_mask"] = torch.cat([torch.tensor([[0, 1]] * len(group)), mask.long()], dim=1)
    mask[1] = 0  # a whole response, and the end of another; neither has a token before which responses are cut
    mask[0, 3:] = 0
    assert before[1].any()
    torch.testing.assert_close(_advantages(data, name), before * mask)


@pytest.mark.parametrize("name", ["leaf", "grpo_prefix"])
def test_several_outputs_of_a_session_are_refused(name):
    data, _ = _batch([EXAMPLE])
    config = OmegaConf.create({"adv_estimator": name})
    keys = ["a_0_0", "a_1_0", "a_2_0", "a_3_0"]
    compute_advantage_for_multi_trajectories(data, batch_keys=keys, adv_estimator=name, config=config)
    with pytest.raises(ValueError, match=f"adv_estimator={name} cannot be used with .* several outputs"):
        keys[1] = "a_0_1"
        compute_advantage_for_multi_trajectories(data, batch_keys=keys, adv_estimator=name, config=config)


@pytest.mark.parametrize("name", ["leaf", "grpo_prefix"])
def test_equal_rewards_and_single_responses_get_nothing(name):
    equal = [(y, s, 0.3) for y, s, _ in EXAMPLE]
    data, _ = _batch([equal, [([1, 2], [-0.1, -0.2], 0.7)], [([], [], 0.5)]])
    assert not _advantages(data, name).any()


def test_what_cannot_be_is_named():
    data, _ = _batch([EXAMPLE])
    with pytest.raises(ValueError, match="algorithm.leaf.credit='all': must be one of both, global, local"):
        _advantages(data, "leaf", leaf={"credit": "all"})
    with pytest.raises(ValueError, match="algorithm.grpo_prefix.kappa=-1: must be auto, or a number"):
        _advantages(data, "grpo_prefix", grpo_prefix={"kappa": -1})
    with pytest.raises(ValueError, match="Set algorithm.norm_adv_by_std_in_grpo=True"):
        _advantages(data, "leaf", norm_adv_by_std_in_grpo=False)
    data.batch["rollout_log_probs"][0, 0] = float("nan")
    with pytest.raises(ValueError, match="hold NaN"):
        _advantages(data, "leaf")
    del data.batch["rollout_log_probs"]
    with pytest.raises(ValueError, match="calculate_log_probs=True"):
        _advantages(data, "leaf")
    data.batch["old_log_probs"] = torch.zeros(4, 5)
    assert _advantages(data, "leaf").any()
