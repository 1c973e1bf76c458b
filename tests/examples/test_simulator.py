"""The simulator of the study: rewards by hand, the gradient by autograd, and that training learns."""

import json

import pytest
import torch

from examples.leaf_against_grpo import simulator
from examples.leaf_against_grpo.predicts import correlations, pairs_of
from examples.leaf_against_grpo.simulator import METHODS, TASKS, Task, World, at_rms_of_grpo, signal_before, train
from verl_leaf.algorithm.estimators import Rollouts
from verl_leaf.rewards import REWARDS


def world(reward: str, seeds: int = 2, **changes) -> World:
    return World(Task(reward, **changes), range(seeds))


@pytest.mark.parametrize(
    "reward, wrong, value",
    [
        ("add", [], 1.0),
        ("add", [0, 3], 0.6),
        ("first", [0], 0.5),
        ("first", [1], 0.875),
        ("gate", [0], 0.0),
        ("gate", [4], 0.8),
        ("tree", [2], 0.8),
    ],
)
def test_rewards_of_tasks(reward, wrong, value):
    own = world(reward)
    classes = torch.tensor([[0], [1]])
    first = own.right[torch.arange(2), classes[:, 0], 0, 0]
    words = own.of_branch(own.right[torch.arange(2)[:, None], classes], first[:, None, None])  # all right
    for place in wrong:
        words[..., place] = (words[..., place] + 1) % 4
    assert own.reward(classes, words).flatten().tolist() == pytest.approx([value] * 2)


@pytest.mark.parametrize("right", ["11111", "11101", "10101", "00001", "00000"])
def test_bleu_is_sacrebleus(right):
    reference = "one two three four five"
    text = " ".join(
        word if hit == "1" else f"x{n}" for n, (word, hit) in enumerate(zip(reference.split(), right, strict=True))
    )
    wanted = REWARDS["sentence_bleu"]("test", text, [reference])["score"]
    hit = torch.tensor([[float(each) for each in right]], dtype=torch.double)
    assert simulator._bleu(hit).item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    "task", [Task("tree", features=True), Task("bleu", words=10, open=0.3)], ids=lambda task: task.name
)
def test_the_gradient_of_the_weights_is_autograds(task):
    own = World(task, range(2))
    classes, uniform = own.classes[:, 0], own.uniform[:, 0]
    weights = own.untrained().normal_(generator=torch.Generator().manual_seed(0)).requires_grad_()
    log_probs = own.log_probs(classes, weights)
    words = own.draw(log_probs, uniform)
    of_words = own.of_branch(log_probs, words[..., 0])
    pushed = torch.randn(words.shape, generator=torch.Generator().manual_seed(1)).double()
    (pushed * of_words.gather(-1, words[..., None])[..., 0]).sum().backward()
    score = torch.nn.functional.one_hot(words, 4) - of_words.exp()
    found = own.gradient(classes, words[..., 0], pushed[..., None] * score)
    torch.testing.assert_close(found.detach(), weights.grad)


def test_before_training_a_quarter_of_the_open_words_is_right():
    own = world("bleu", 8, words=10, open=0.3)
    words = own.draw(own.log_probs(own.classes[:, 0], own.untrained()), own.uniform[:, 0])
    right = own.right[torch.arange(8)[:, None], own.classes[:, 0], :, 0]
    hit = (words == right[:, :, None]).double()
    assert hit.mean().item() == pytest.approx(0.3 / 4 + 0.7 * 0.97, abs=0.03)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name):
    rewards = train(TASKS[2], METHODS[name], 0.4, range(2))
    assert rewards[:, -3:].mean() > rewards[:, :3].mean() + 0.2
    assert torch.equal(rewards, train(TASKS[2], METHODS[name], 0.4, range(2)))


def test_scaled_advantages_have_grpos_size_in_every_step():
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, (32, 5), generator=draw)
    rewards = torch.rand(32, generator=draw).double()
    group = torch.arange(4).repeat_interleave(8)
    rollouts = Rollouts(tokens, torch.ones(32, 5).bool(), rewards, group, surprisal=torch.rand(32, 5, generator=draw))
    scaled, grpo = at_rms_of_grpo(METHODS["leaf"])(rollouts, 2), METHODS["grpo"](rollouts, 2)
    for seed in range(2):
        own = slice(16 * seed, 16 * seed + 16)
        assert scaled[own].square().mean() == pytest.approx(grpo[own].square().mean())
    assert not torch.equal(scaled, grpo)


def test_the_signal_of_a_step_prefers_the_tree_where_the_first_word_is_half_of_the_reward(monkeypatch):
    monkeypatch.setattr(simulator, "SIGNAL_SEEDS", range(2000, 2002))
    early, independent = (signal_before(task) for task in (TASKS[4], TASKS[0]))
    assert early["grpo"] == independent["grpo"] == 1
    assert early["grpo_prefix"] > 1.2 > independent["grpo_prefix"] and early["tree ceiling"] > early["grpo_prefix"]


def test_predictions_are_ranked_over_all_tasks_and_within_each(tmp_path):
    rows = [{"estimator": name, "relative": value} for name, value in (("grpo", 1), ("leaf", 2), ("tempo", 3))]
    (tmp_path / "credit.json").write_text(json.dumps({"estimators": rows}))
    gain = {"task": "report", "n": "8", "measure": "area", "baseline": "grpo"}
    gains = [gain | {"method": "leaf", "mean": "0.1"}, gain | {"method": "tempo", "mean": "-0.1"}]
    gains += [gains[0] | {"n": "16", "mean": "9"}, gains[0] | {"measure": "bleu", "mean": "9"}]
    assert pairs_of("report", tmp_path, gains, "area") == [(2, 0.1), (3, -0.1)]
    # Ranks 1.5, 3, 1.5, 4 and 2, 3, 1, 4.
    assert correlations([[(1, 2), (2, 3)], [(1, 0), (3, 5)]]).startswith(
        "0.95 (0.95 to 1.00) over 4 pairs; 1.00 within"
    )
