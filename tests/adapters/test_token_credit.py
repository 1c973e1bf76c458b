"""What the adapters share: wherever the responses of a step lie, each gets what the estimator says."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_leaf.adapters.token_credit import EstimatorSettings, Responses, token_advantages, total_rewards
from verl_leaf.algorithm import grpo_prefix_advantages, leaf_advantages
from verl_leaf.algorithm.estimators import ESTIMATORS
from verl_leaf.algorithm.settings import SETTINGS, check_settings
from verl_leaf.training import estimator

README = Responses(
    torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 4, 9], [5, 6, 3, 8, 9], [5, 6, 7, 8, 2]]),
    -torch.tensor(
        [[0.1, 0.2, 0.9, 1.5, 0.1], [0.1, 0.2, 0.9, 2.0, 0.2], [0.1, 0.2, 2.5, 0.3, 0.1], [0.1, 0.2, 0.9, 1.5, 1.2]]
    ),
    torch.ones(4, 5),
)
REWARDS, GROUP = torch.tensor([1.0, 0.5, 0.0, 0.8]), torch.zeros(4, dtype=torch.long)


def rows_of(responses: Responses, rows) -> Responses:
    return Responses(*(tensor[rows] for tensor in (responses.tokens, responses.log_probs, responses.mask)))


@st.composite
def steps(draw):
    """The responses of some prompts, one sharing beginnings with others, and how a trainer could hold them."""
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    G, K, T = draw(st.integers(1, 3)), draw(st.integers(2, 4)), draw(st.integers(1, 6))
    N = G * K
    tokens = torch.randint(0, 2, (N, T), generator=seed)
    length = torch.randint(1, T + 1, (N, 1), generator=seed)
    mask = torch.arange(T) < length
    mask &= (torch.rand(N, T, generator=seed) < 0.8) | (torch.arange(T) == 0)  # a tool's replies
    log_probs = -torch.rand(N, T, generator=seed)
    plain = Responses(tokens * (torch.arange(T) < length), log_probs, mask)
    rewards = torch.randint(0, 3, (N,), generator=seed).float()
    return plain, rewards, torch.arange(N) // K, draw(st.sampled_from([1, K, N])), seed


def held(plain: Responses, size: int, seed: torch.Generator) -> list[Responses]:
    """In batches of ``size`` rows, each response after a prompt and before padding of any length."""
    batches = []
    for first in range(0, len(plain.mask), size):
        own = rows_of(plain, slice(first, first + size))
        offset = torch.randint(0, 4, (len(own.mask), 1), generator=seed)
        width = own.mask.shape[1] + 3 + int(torch.randint(0, 3, (), generator=seed))
        columns = offset + torch.arange(own.mask.shape[1])

        def place(rows, columns=columns, width=width):
            other = torch.randint(0, 9, (len(rows), width), generator=seed).to(rows.dtype)
            return other.scatter(1, columns, rows)

        mask = torch.zeros(len(own.mask), width, dtype=torch.bool).scatter(1, columns, own.mask)
        batches.append(Responses(place(own.tokens), place(own.log_probs), mask))
    return batches


@settings(deadline=None)
@given(steps())
def test_where_responses_begin_and_in_which_batch_makes_no_difference(step):
    plain, rewards, group, size, seed = step
    batches = held(plain, size, seed)
    found, _ = token_advantages(EstimatorSettings(), batches, rewards, group)
    expected = leaf_advantages(plain.tokens, -plain.log_probs, rewards, plain.mask, group).advantages
    for batch, own, theirs, mask in zip(batches, found, expected.split(size), plain.mask.split(size), strict=True):
        assert own.shape == batch.mask.shape and not own[~batch.mask].any()
        assert torch.equal(own[batch.mask], theirs[mask])


@pytest.mark.parametrize("name", estimator.ESTIMATORS)
def test_advantages_and_metrics_are_those_of_verls_side(name):
    said = []
    expected, _ = estimator.FUNCTIONS[name](
        torch.nn.functional.pad(REWARDS[:, None], (4, 0)),
        README.mask,
        np.array(["prompt"] * 4),
        batch={"responses": README.tokens, "rollout_log_probs": README.log_probs},
        report=said.append,
    )
    (found,), metrics = token_advantages(EstimatorSettings(estimator=name), [README], REWARDS, GROUP)
    assert torch.equal(found, expected)
    theirs = said[0].metrics
    assert metrics.keys() == theirs.keys()
    assert {k: v for k, v in metrics.items() if k != "leaf/seconds"} == {
        k: v for k, v in theirs.items() if k != "leaf/seconds"
    }


def test_two_processes_get_what_one_gets():
    """Each has another width, and a prompt's responses lie on both."""
    parts = [rows_of(README, slice(0, 2)), rows_of(README, slice(2, 4))]
    parts[1] = Responses(
        *(torch.nn.functional.pad(t, (0, 2)) for t in (parts[1].tokens, parts[1].log_probs, parts[1].mask))
    )
    whole, metrics = token_advantages(EstimatorSettings(), [README], REWARDS, GROUP)

    def gather_of(process):
        """Plays the other process: the same call, with its own tensors."""

        calls = iter(calls_of(parts[1 - process]))
        return lambda own: torch.cat([own, next(calls)] if process == 0 else [next(calls), own])

    for process, part in enumerate(parts):
        (found,), own = token_advantages(
            EstimatorSettings(), [part], REWARDS, GROUP, gather=gather_of(process), process=process
        )
        assert torch.equal(found[:, :5], whole[0][2 * process :][:2])
        assert {**own, "leaf/seconds": 0} == {**metrics, "leaf/seconds": 0}


def calls_of(part: Responses) -> list[torch.Tensor]:
    """What a process hands to ``gather``, beside one whose rows are 7 wide."""
    pad = (0, 7 - part.mask.shape[1])
    tensors = (part.mask.int(), part.tokens, part.log_probs)
    return [torch.tensor([part.mask.shape[1]]), *(torch.nn.functional.pad(tensor, pad) for tensor in tensors)]


def test_a_response_without_a_reward_is_left_out_of_its_group():
    rewards = torch.tensor([1.0, 0.5, torch.nan, 0.8])
    (found,), _ = token_advantages(EstimatorSettings(), [README], rewards, GROUP)
    others = [0, 1, 3]
    (expected,), _ = token_advantages(EstimatorSettings(), [rows_of(README, others)], rewards[others], GROUP[others])
    assert torch.equal(found[others], expected) and not found[2].any()


def test_a_step_without_rewards_trains_on_nothing():
    (found,), _ = token_advantages(EstimatorSettings(), [README], torch.full((4,), torch.nan), GROUP)
    assert not found.any()


def test_rewards_of_several_functions():
    per_function = torch.tensor([[1.0, 2.0], [torch.nan, 2.0], [torch.nan, torch.nan]])
    total = total_rewards(per_function, torch.tensor([1.0, 0.5]))
    assert total[:2].tolist() == [2.0, 1.0] and total[2].isnan()


def test_the_settings_reach_the_estimator():
    (found,), _ = token_advantages(EstimatorSettings(fork_budget=1, credit="local"), [README], REWARDS, GROUP)
    expected = leaf_advantages(
        README.tokens, -README.log_probs, REWARDS, README.mask, GROUP, fork_budget=1, credit="local"
    )
    assert torch.equal(found, expected.advantages)
    (found,), _ = token_advantages(EstimatorSettings(estimator="grpo_prefix", kappa="2"), [README], REWARDS, GROUP)
    assert torch.equal(found, grpo_prefix_advantages(README.tokens, REWARDS, README.mask, GROUP, kappa=2.0).advantages)


def test_what_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"reward of response 3 of the step is -inf"):
        token_advantages(EstimatorSettings(), [README], torch.tensor([1.0, 0.5, 0.0, -torch.inf]), GROUP)
    log_probs = README.log_probs.clone()
    log_probs[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"log-probabilities of response 1 of the step contain NaN"):
        token_advantages(EstimatorSettings(), [replace(README, log_probs=log_probs)], REWARDS, GROUP)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            {"estimator": "LEEF"},
            "estimator='LEEF': there is no such estimator. Did you mean leaf? Choose one of " + ", ".join(ESTIMATORS),
        ),
        (
            {"estimator": "gae"},
            "estimator='gae': there is no such estimator. Choose one of " + ", ".join(ESTIMATORS),
        ),
        ({"credit": "all"}, "credit='all' is not valid. Valid values are both, global, local"),
        ({"fork_budget": -1}, "fork_budget=-1 is not valid. Valid values are integers of 0 or more"),
        ({"min_prefix_tokens": 1.5}, "min_prefix_tokens=1.5 is not valid. Valid values are integers of 0 or more"),
        ({"kappa": "-1"}, "kappa=-1.0 is not valid. Valid values are auto and numbers of 0 or more"),
        ({"kappa": "much"}, "kappa='much' is not valid. Valid values are auto and numbers of 0 or more"),
        ({"kappa": "nan"}, "kappa=nan is not valid. Valid values are auto and numbers of 0 or more"),
    ],
)
def test_a_wrong_setting_is_named(wrong, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        EstimatorSettings(**wrong).options()
    assert str(error.value) == message


@pytest.mark.parametrize("trainer", SETTINGS)
def test_every_setting_of_the_list_is_refused_with_its_reason(trainer):
    """The tests of each trainer have its own configuration, and its own values."""
    fine, wrong = {}, {}
    for setting in SETTINGS[trainer]:
        assert bool(setting.only) != bool(setting.never)
        fine[setting.name] = setting.only[0] if setting.only else "another"
        wrong[setting.name] = setting.never[0] if setting.never else "another"
        if setting.unless is not None:
            wrong.setdefault(setting.unless[0], "another")
    check_settings(trainer, nested(fine), "leaf")
    with pytest.raises(ValueError, match="leaf cannot be combined with") as error:
        check_settings(trainer, nested(wrong), "leaf")
    problems = str(error.value).removeprefix("leaf cannot be combined with ").split("; ")
    for setting in SETTINGS[trainer]:
        assert any(each.startswith(f"{setting.name}={wrong[setting.name]}, which ") for each in problems), setting.name
        for name in setting.but:
            check_settings(trainer, nested(fine | {setting.name: wrong[setting.name]}), name)
    assert not any(word in str(error.value) for word in ("{}", "\n"))


def nested(values: dict) -> SimpleNamespace:
    """The settings as attributes, with sections where names have dots."""
    tree = SimpleNamespace()
    for name, value in values.items():
        *sections, last = name.split(".")
        place = tree
        for section in sections:
            vars(place).setdefault(section, SimpleNamespace())
            place = getattr(place, section)
        setattr(place, last, value)
    return tree
