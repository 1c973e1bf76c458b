"""The advantages of the tree page are the estimators', and ``early`` of a prompt is that of its pairs."""

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from tests.helpers.traced import WORKED, traced_prompt
from verl_leaf.algorithm import grpo_prefix_advantages
from verl_leaf.show.advantages import step_advantages
from verl_leaf.show.tree_page.build import page_prompt
from verl_leaf.training.traces.schema import Prompt

REWARDS = WORKED["rewards"]


def worked(**changes) -> Prompt:
    return Prompt.model_validate(traced_prompt(**{**WORKED, **changes}))


def paid_by_hand(kappa: float) -> list[float]:
    """grpo_prefix for the first response: the others lose response 2 after token 2, and response 1 after token 3."""
    baselines = [(0.5 + 0.0 + 0.8) / 3]
    for mean, m in ((0.65, 2), (0.8, 1)):
        baselines.append(baselines[-1] + m / (m + kappa) * (mean - baselines[-1]))
    std = np.std(REWARDS, ddof=1) + 1e-6
    return [(1.0 - baselines[number]) / std for number in (0, 0, 0, 1, 2)]


def test_a_step_is_paid_as_the_estimators_pay_it():
    prompts = [worked(), worked(rewards=[0.5] * 4), worked(responses=WORKED["responses"][::-1], rewards=REWARDS[::-1])]
    tokens = torch.tensor([response.tokens for prompt in prompts for response in prompt.responses])
    rewards = torch.tensor([response.reward for prompt in prompts for response in prompt.responses])
    group = torch.arange(3).repeat_interleave(4)
    kappa = grpo_prefix_advantages(tokens, rewards.double(), torch.ones_like(tokens), group).kappa
    assert 0 < kappa < 100
    first, equal, reversed_ = step_advantages(prompts)
    assert first.tokens["grpo_prefix"][0] == pytest.approx(paid_by_hand(kappa), abs=1e-6)
    assert reversed_.tokens["grpo_prefix"][3] == pytest.approx(first.tokens["grpo_prefix"][0])
    assert equal.grpo == [0.0] * 4 and equal.tokens["grpo_prefix"] == [[0.0] * 5] * 4

    column = torch.tensor([[reward, 0.0] for reward in REWARDS])
    verls, _ = compute_grpo_outcome_advantage(column, torch.ones(4, 2), np.array(["a"] * 4, dtype=object))
    assert first.grpo == pytest.approx(verls[:, 0].tolist(), abs=1e-5)


def test_early_of_a_prompt():
    first, equal, alone = step_advantages(
        [
            worked(),
            worked(rewards=[0.5] * 4),
            worked(responses=[[1, 2], [3, 4]], surprisal=[[0, 1]] * 2, rewards=[0, 1]),
        ]
    )
    assert first.early == pytest.approx(1 - (0.25 + 0.04 + 0.09) / (1.0 + 0.25 + 0.64))
    assert equal.early is None and alone.early is None


def test_what_a_tool_wrote_is_paid_nothing():
    prompt = worked()
    line = prompt.model_dump()
    line["responses"][0]["policy"][3] = 0
    (paid,) = step_advantages([Prompt.model_validate(line)])
    assert paid.tokens["grpo_prefix"][0][3] == 0 and paid.tokens["grpo_prefix"][0][4] != 0


def test_a_branch_of_the_page_has_the_mean_of_its_tokens():
    prompt = worked()
    (more,) = step_advantages([prompt])
    (stem,) = page_prompt(1, prompt, more)["edges"]
    onward = stem["children"][0]
    assert (onward["start"], onward["end"], onward["responses"]) == (2, 3, [0, 1, 3])
    assert stem["advantages"]["grpo_prefix"] == pytest.approx(0, abs=1e-9)
    assert onward["advantages"]["grpo_prefix"] == pytest.approx(
        np.mean([more.tokens["grpo_prefix"][k][2] for k in (0, 1, 3)])
    )
    assert step_advantages([]) == []
