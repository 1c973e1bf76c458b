"""Responses of several turns, in which tools and users write too: every estimator against its plain definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.algorithm.test_properties import REWARD, SURPRISAL
from tests.helpers.batches import pack
from tests.helpers.reference import grpo_prefix, kappa_and_early, lambda_grpo, leaf, mean, tempo, unbiased_variance
from verl_leaf.training.estimator import ESTIMATORS, FUNCTIONS, WRITTEN_MASK


def plain_leaf(group, groups):
    return leaf(group["responses"], group["surprisal"], group["rewards"], 2, 1, "both", group["policy"])[2]


def plain_grpo_floored(group, groups):
    r, std = group["rewards"], unbiased_variance(group["rewards"]) ** 0.5
    return [[(one - mean(r)) / max(std, 1 / 3)] * len(y) for one, y in zip(r, group["responses"], strict=True)]


def plain_grpo_prefix(group, groups):
    kappa, _, _ = kappa_and_early([(each["responses"], each["rewards"]) for each in groups])
    return grpo_prefix(group["responses"], group["rewards"], kappa)[1]


PLAIN = {
    "leaf": plain_leaf,
    "grpo_floored": plain_grpo_floored,
    "grpo_prefix": plain_grpo_prefix,
    "tempo": lambda group, groups: tempo(group["responses"], group["rewards"]),
    "lambda_grpo": lambda group, groups: lambda_grpo(group["responses"], group["rewards"]),
}

turns = st.lists(
    st.tuples(
        st.lists(st.integers(0, 1), min_size=1, max_size=3),  # what the policy writes
        st.lists(st.integers(2, 3), min_size=1, max_size=3),  # the reply of a tool, which may differ for the same call
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def conversations(draw):
    """Responses to a prompt: turns of the policy, each followed by a reply, except often the last."""
    group = {"responses": [], "surprisal": [], "rewards": [], "policy": [], "kept": []}
    for _ in range(draw(st.integers(2, 5))):
        parts = [part for turn in draw(turns) for part in turn]
        parts = parts[: len(parts) - draw(st.sampled_from([0, 1, 1, 1]))]
        tokens = [token for part in parts for token in part]
        policy = [1 - number % 2 for number, part in enumerate(parts) for _ in part]
        group["responses"].append(tokens)
        group["policy"].append(policy)
        group["kept"].append(draw(st.lists(st.sampled_from([1, 1, 1, 0]), min_size=len(tokens), max_size=len(tokens))))
        group["surprisal"].append(draw(st.lists(SURPRISAL, min_size=len(tokens), max_size=len(tokens))))
        group["rewards"].append(draw(REWARD))
    return group


def test_every_estimator_has_a_plain_definition():
    assert PLAIN.keys() == ESTIMATORS.keys()


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=80, deadline=None)
@given(groups=st.lists(conversations(), min_size=1, max_size=3), seed=st.integers(0, 2**16))
def test_agrees_with_the_definition(name, groups, seed):
    """Call it as verl does: after a prompt, padded, and with tokens that rejection sampling took out of the mask."""
    batch = pack(groups, seed=seed)
    kept = torch.zeros_like(batch.mask)
    for rows, group in zip(batch.rows, groups, strict=True):
        for row, own in zip(rows, group["kept"], strict=True):
            kept[row, : len(own)] = torch.tensor(own)
    attended = torch.arange(batch.mask.shape[1]) < batch.lengths[:, None]
    rewards = torch.zeros_like(batch.surprisal)
    rewards[:, 0] = batch.rewards
    found, _ = FUNCTIONS[name](
        token_level_rewards=rewards,
        response_mask=batch.mask * kept,
        index=np.array(batch.group.tolist()),
        batch={
            "responses": batch.responses,
            "rollout_log_probs": -batch.surprisal,
            "attention_mask": torch.cat([torch.ones(len(attended), 2, dtype=torch.bool), attended], dim=1),
            WRITTEN_MASK: batch.mask,
        },
    )
    wanted = torch.zeros_like(found)
    for rows, group in zip(batch.rows, groups, strict=True):
        for row, plain in zip(rows, PLAIN[name](group, groups), strict=True):
            wanted[row, : len(plain)] = torch.tensor(plain, dtype=found.dtype)
    torch.testing.assert_close(found, wanted * batch.mask * kept, rtol=1e-6, atol=1e-6)
