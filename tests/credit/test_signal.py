"""What a step gains and costs, held against an enumeration of all groups; intervals and the sentence."""

import itertools
import math

import pytest
import torch

from tests.algorithm.test_prefix_baseline import POLICY, TREE, expected_gradient, policy_gradient, probability, score
from verl_leaf.algorithm import grpo_advantages
from verl_leaf.credit import signal
from verl_leaf.credit.signal import (
    CEILING,
    NAMES,
    Prompt,
    Signal,
    draw_groups,
    signals,
    step_advantages,
    summarise,
    verdict,
)


def drawn(generator: torch.Generator, count: int) -> Prompt:
    """Rollouts of the policy that can be enumerated."""
    responses = list(TREE)
    chances = torch.tensor([probability(y) for y in responses])
    own = [responses[n] for n in torch.multinomial(chances, count, replacement=True, generator=generator).tolist()]
    tokens, surprisal = torch.zeros(count, 3, dtype=torch.long), torch.zeros(count, 3, dtype=torch.double)
    for row, y in enumerate(own):
        tokens[row, : len(y)] = torch.tensor(y)
        surprisal[row, : len(y)] = torch.tensor([-math.log(POLICY[y[:t]][y[t]]) for t in range(len(y))])
    rewards = torch.tensor([TREE[y] for y in own], dtype=torch.double)
    return Prompt(tokens, torch.tensor([len(y) for y in own]), rewards, surprisal)


def gradients(prompt: Prompt) -> list[torch.Tensor]:
    """The exact gradients of the edges, as one factor."""
    _, places = prompt.edges()
    rows = []
    for row, position in places.tolist():
        rows.append(score(tuple(prompt.tokens[row, : prompt.lengths[row]].tolist()))[position])
    return [torch.stack(rows)]


def test_edges_are_tokens_after_prefixes():
    tokens = torch.tensor([[5, 6, 7], [5, 6, 0], [5, 7, 7], [6, 6, 0]])
    number, places = Prompt(tokens, torch.tensor([3, 2, 3, 2]), torch.zeros(4), torch.zeros(4, 3)).edges()
    assert number.tolist() == [[0, 1, 2], [0, 1, -1], [0, 3, 4], [5, 6, -1]]
    assert places.tolist() == [[0, 0], [0, 1], [0, 2], [2, 1], [2, 2], [3, 0], [3, 1]]


def test_gain_and_cost_are_those_of_all_groups(monkeypatch):
    """K = 3, GRPO: expectations over 216 groups against means over 150 prompts of 32 rollouts."""
    monkeypatch.setattr(signal, "BLOCK", 3)  # fewer than there are edges
    generator, P = torch.Generator().manual_seed(0), 150
    prompts = [drawn(generator, 32) for _ in range(P)]
    groups = draw_groups(P, 32, 3, seed=0)
    assert groups[:, :32].max() < 16 <= groups[:, 32:].min() and all(len(set(g)) == 3 for g in groups[0].tolist())
    advantages = step_advantages(prompts, groups)
    found = [
        signals(prompt, groups[n], {name: a[n] for name, a in advantages.items()}, gradients(prompt))
        for n, prompt in enumerate(prompts)
    ]

    def grpo(batch):
        return grpo_advantages(batch.rewards, batch.group)[:, None].expand(-1, 3)

    truth = policy_gradient()
    expected = expected_gradient(grpo, per_token=True) / 3
    cost = 0.0
    for group in itertools.product(TREE, repeat=3):
        own = grpo_advantages(torch.tensor([TREE[y] for y in group], dtype=torch.double), torch.zeros(3).long())
        step = sum(a * score(y).mean(0) for a, y in zip(own, group, strict=True)) / 3
        cost += math.prod(map(probability, group)) * (step @ step)

    def agrees(values, wanted):
        values = torch.tensor(values, dtype=torch.double)
        assert abs(values.mean() - wanted) < 4 * values.std() / P**0.5, (values.mean(), wanted)

    agrees([size for size, _ in found], truth @ truth)
    agrees([own["grpo"].gain for _, own in found], expected @ truth)
    agrees([own["grpo"].cost for _, own in found], cost)


def test_the_best_step_has_an_efficiency_of_1_and_one_that_goes_astray_less():
    """A step along G with any length; one with as much noise as signal; one the other way."""
    prompt = {
        "grpo": Signal(0.5, 1.0, 0.5),
        "a": Signal(2.0, 4.0, 1.0),
        "b": Signal(-0.5, 1.0, -0.5),
        CEILING: Signal(3.0, 9.0, 1.0),
    }
    rows = {row["estimator"]: row for row in summarise([1.0, 1.0, 1.0], [prompt] * 3)}
    assert [rows[name]["efficiency"] for name in prompt] == pytest.approx([0.25, 1.0, -0.25, 1.0])
    assert [rows[name]["cosine"] for name in prompt] == pytest.approx([0.5, 1.0, -0.5, 1.0])
    assert rows["a"]["relative"] == rows["a"]["relative_low"] == pytest.approx(4) and rows["a"]["best"] == 1
    assert rows[CEILING]["best"] == 0  # no estimator
    assert verdict(list(rows.values()), 3).startswith("Use a: a step with it gains 4.00 (4.00 to 4.00) times")


def test_the_sentence_says_what_is_not_known():
    def rows(*relative, size=1.0):
        own = [{"grpo": Signal(1.0, 2.0, 0.5), "a": Signal(each, 2.0, 0.5)} for each in relative]
        return summarise([size] * len(relative), own)

    better = verdict(rows(0.9, 1.0, 1.1, 1.2, 0.8, 1.3), 6)
    assert (
        better.startswith("Use grpo, because no estimator is detectably better: a gains 1.10")
        and "prompts instead of 6" in better
    )
    assert verdict(rows(0.5, 0.6, 0.5, 0.6), 4).startswith("Use grpo: in 100% of the bootstrap's draws")
    assert "cannot be distinguished from noise" in verdict(rows(1.0, 1.0, size=-1.0), 2)


def test_draws_without_a_policy_gradient_are_not_left_out_of_its_interval():
    """In a tenth of the draws or more, the mean of these is not above 0."""
    rows = summarise([3.0, -2.0] * 5, [{"grpo": Signal(1.0, 2.0, 0.5)}] * 10)
    assert rows[0]["efficiency"] == pytest.approx(1.0) and math.isnan(rows[0]["efficiency_low"])
    assert "cannot be distinguished from noise" in verdict(rows, 10)
    rows = summarise([3.0, 2.0] * 5, [{"grpo": Signal(1.0, 2.0, 0.5)}] * 10)
    assert 0.1 < rows[0]["efficiency_low"] < rows[0]["efficiency"] < rows[0]["efficiency_high"] < 0.3


def test_all_estimators_of_the_table_are_compared():
    prompts = [drawn(torch.Generator().manual_seed(1), 16)] * 2
    advantages = step_advantages(prompts, draw_groups(2, 16, 4, seed=0))
    assert tuple(advantages) == NAMES
    assert all(own.shape == (2, 2 * signal.GROUPS, 4, 3) for own in advantages.values())
