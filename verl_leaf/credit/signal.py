"""How much of the policy gradient a step with each estimator has: from tokens, rewards and the tokens' gradients.

The rollouts of a prompt are halved. Of each half, many random groups of ``K`` are steps: ``g``, the gradient of the loss with an
estimator's advantages, averaged over the tokens of a response and over responses (verl's ``seq-mean-token-mean``). The other half
gives ``G``, the gradient of the mean reward: REINFORCE with the mean of the other rewards as the baseline, summed over tokens.
So ``g`` and ``G`` are independent, and so are the two ``G``, whose inner product estimates ``|G|^2`` without a bias.

Rollouts with a common prefix have the same token gradients there. An *edge* is a token after a prefix, and every gradient is a
sum over edges: what is needed of the model is the inner products of its edges.

Letters: ``M`` rollouts of a prompt, ``T`` tokens, ``E`` edges, ``R`` groups of both halves, ``K`` responses of a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verl_leaf.algorithm import grpo_advantages, grpo_prefix_advantages
from verl_leaf.algorithm.estimators import ESTIMATORS, Rollouts

GROUPS = 32  # of each half
DRAWS = 2000  # of the bootstrap
CEILING = "tree ceiling"
NAMES = ("grpo", *ESTIMATORS, CEILING)
BLOCK = 2048  # edges whose inner products are in memory at a time


@dataclass(frozen=True)
class Prompt:
    """The rollouts of a prompt.

    Attributes:
        tokens: ``[M, T]`` int64, 0 past the end of a response.
        lengths: ``[M]`` int64, 1 or more.
        rewards: ``[M]`` float64.
        surprisal: ``[M, T]`` float64, ``-log p(token)`` under the distribution that was sampled from.
    """

    tokens: Tensor
    lengths: Tensor
    rewards: Tensor
    surprisal: Tensor

    @property
    def mask(self) -> Tensor:
        """``[M, T]`` bool, which entries are tokens."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def edges(self) -> tuple[Tensor, Tensor]:
        """Number the edges.

        Returns:
            ``[M, T]`` int64, the edge of each token, -1 past the end; and ``[E, 2]``, a rollout and a position that have each
            edge.
        """
        known: dict[tuple[int, int], int] = {}
        places: list[tuple[int, int]] = []
        number = torch.full(self.tokens.shape, -1)
        for row, (tokens, length) in enumerate(zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)):
            edge = -1
            for position, token in enumerate(tokens[:length]):
                edge = known.setdefault((edge, token), len(places))
                if edge == len(places):
                    places.append((row, position))
                number[row, position] = edge
        return number, torch.tensor(places)


@dataclass(frozen=True)
class Signal:
    """What a prompt says of a step with an estimator; means over its groups.

    Attributes:
        gain: of ``<g, G>``.
        cost: of ``|g|^2``.
        aligned: of ``<g, G> / |g|``, 0 if ``g`` is 0.
    """

    gain: float
    cost: float
    aligned: float


def draw_groups(prompts: int, rollouts: int, K: int, seed: int) -> Tensor:
    """Return ``[prompts, R, K]``, the rollouts of random groups: the first half of ``R`` from the first half of the rollouts."""
    draw = torch.Generator().manual_seed(seed)
    half = rollouts // 2
    chosen = torch.rand(prompts, 2 * GROUPS, half, generator=draw).argsort(2)[..., :K]
    return chosen + half * (torch.arange(2 * GROUPS) >= GROUPS)[:, None]


def step_advantages(prompts: Sequence[Prompt], groups: Tensor) -> dict[str, Tensor]:
    """Compute the advantages of all groups with every estimator and its default options.

    The ceiling has the baseline that is best in the tree of all rollouts: shrunk node means, as in ``grpo_prefix``, from all
    other rollouts of the prompt instead of the others of the group. So no baseline that a group has can be as good.

    Args:
        prompts: the rollouts. Estimators may pool over prompts, as ``grpo_prefix`` does for ``kappa``.
        groups: ``[prompts, R, K]``, from `draw_groups`.

    Returns:
        By the names in `NAMES`, ``[prompts, R, K, T]`` float64.
    """
    P, R, K = groups.shape
    T = max(prompt.tokens.shape[1] for prompt in prompts)

    def stacked(of_prompts: Sequence[Tensor]) -> Tensor:
        """``[P, M, T]`` from ``[M, t]`` each."""
        return torch.stack([torch.nn.functional.pad(rows, (0, T - rows.shape[1])) for rows in of_prompts])

    def of_groups(rows: Tensor) -> Tensor:
        """``[P * R * K, ...]`` from ``[P, M, ...]``."""
        return rows[torch.arange(P)[:, None, None], groups].flatten(0, 2)

    tokens, mask = stacked([prompt.tokens for prompt in prompts]), stacked([prompt.mask for prompt in prompts])
    rewards = torch.stack([prompt.rewards for prompt in prompts])
    rollouts = Rollouts(
        tokens=of_groups(tokens),
        mask=of_groups(mask),
        rewards=of_groups(rewards),
        group=torch.arange(P * R).repeat_interleave(K),
        surprisal=of_groups(stacked([prompt.surprisal for prompt in prompts])),
    )
    M = rewards.shape[1]
    whole = grpo_prefix_advantages(
        tokens.flatten(0, 1), rewards.flatten(), mask.flatten(0, 1), torch.arange(P).repeat_interleave(M)
    )
    found = {"grpo": grpo_advantages(rollouts.rewards, rollouts.group)[:, None] * rollouts.mask}
    found |= {name: row.function(rollouts, row.options()).advantages for name, row in ESTIMATORS.items()}
    found[CEILING] = of_groups(whole.advantages.view(P, M, T))
    return {name: found[name].view(P, R, K, T) for name in NAMES}


def signals(
    prompt: Prompt, groups: Tensor, advantages: dict[str, Tensor], factors: Sequence[Tensor]
) -> tuple[float, dict[str, Signal]]:
    """Compare the steps of a prompt with its policy gradient.

    Args:
        prompt: the rollouts.
        groups: ``[R, K]``.
        advantages: ``[R, K, T]`` of each estimator.
        factors: ``[E, n]`` each. The inner product of two edges' gradients is the product, over the factors, of the inner
            products of their rows. All on one device.

    Returns:
        The estimate of ``|G|^2``, which may be negative, and the `Signal` of each estimator.
    """
    edge, _ = prompt.edges()
    number = int(edge.max()) + 1
    mask, (M, T) = prompt.mask, edge.shape
    R, K = groups.shape
    half = M // 2
    place = torch.where(mask, edge, 0)

    truth = torch.zeros(2, number, dtype=torch.double)
    for side in range(2):
        own = slice(side * half, (side + 1) * half)
        rewards = prompt.rewards[own]
        weight = (rewards - rewards.mean()) / (half - 1)  # leave-one-out, over half
        truth[side].index_add_(0, place[own].flatten(), (weight[:, None] * mask[own]).flatten())
    steps = torch.zeros(len(advantages), R, number, dtype=torch.double)
    at = place[groups].flatten(1)
    for kind, of_groups in enumerate(advantages.values()):
        weight = of_groups[..., :T] * mask[groups] / prompt.lengths[groups][..., None] / K
        steps[kind].scatter_add_(1, at, weight.flatten(1).double())

    rows = torch.cat([truth, steps.flatten(0, 1)]).to(factors[0])
    products = torch.zeros_like(rows)
    for first in range(0, number, BLOCK):
        block = slice(first, first + BLOCK)
        gram = torch.ones(number, len(factors[0][block])).to(rows)
        for factor in factors:
            gram *= factor @ factor[block].T
        products[:, block] = rows @ gram
    rows, products = rows.double().cpu(), products.double().cpu()
    other = (torch.arange(R) < R // 2).long()  # a step of the first half meets the truth of the second
    inner = (products[2:].view(-1, R, number) * rows[:2][other]).sum(-1)
    square = (products[2:] * rows[2:]).sum(-1).view(-1, R).clamp(min=0)
    aligned = torch.where(square > 0, inner / square.sqrt(), 0)
    found = zip(advantages, inner.mean(1).tolist(), square.mean(1).tolist(), aligned.mean(1).tolist(), strict=True)
    return float(rows[0] @ products[1]), {name: Signal(*values) for name, *values in found}


def summarise(size: Sequence[float], of_prompts: Sequence[dict[str, Signal]]) -> list[dict]:
    """Sum up over prompts, with 95 % intervals from a bootstrap over them.

    Args:
        size: ``|G|^2`` of each prompt.
        of_prompts: the signals of each prompt.

    Returns:
        A row per estimator. ``efficiency`` is ``<E g, G>^2 / (|G|^2 E |g|^2)``, the share of the best step's first-order gain that
        a step has; its sign is that of the gain. ``cosine`` is that of a step and ``G``. ``relative`` is the efficiency over that of
        ``grpo``. ``best`` is how often, of all draws, an estimator has the largest one. Each of the first three has
        ``_low`` and ``_high``. If ``|G|^2`` is not above 0, the first two are NaN.
    """
    names = list(of_prompts[0])
    values = np.array(
        [[[s.gain, s.cost, s.aligned] for s in prompt.values()] for prompt in of_prompts]
    )  # [P, names, 3]
    draws = np.random.default_rng(0).integers(0, len(size), (DRAWS, len(size)))
    draws = np.vstack([np.arange(len(size)), draws])
    with np.errstate(invalid="ignore", divide="ignore"):
        gain, cost, aligned = np.moveaxis(values[draws].mean(1), 2, 0)  # [draws, names]
        length = np.array(size)[draws].mean(1)[:, None]
        length = np.where(length > 0, length, np.nan)
        signed = np.sign(gain) * gain**2 / cost
        grpo = signed[:, [names.index("grpo")]]
        measures = {
            "efficiency": signed / length,
            "cosine": aligned / length**0.5,
            "relative": signed / np.where(grpo > 0, grpo, np.nan),
        }
    candidates = [number for number, name in enumerate(names) if name != CEILING]
    winner = np.array(candidates)[signed[1:, candidates].argmax(1)]
    rows = []
    for number, name in enumerate(names):
        row: dict = {"estimator": name}
        for measure, of_draws in measures.items():
            low, high = (
                np.nanquantile(of_draws[1:, number], (0.025, 0.975))
                if np.isfinite(of_draws[1:, number]).any()
                else (np.nan,) * 2
            )
            row |= {measure: float(of_draws[0, number]), f"{measure}_low": float(low), f"{measure}_high": float(high)}
        rows.append(row | {"best": float((winner == number).mean())})
    return rows


def verdict(rows: list[dict], prompts: int) -> str:
    """Return which estimator to use, how sure that is, and how many prompts would make it surer, as a sentence."""
    grpo = next(row for row in rows if row["estimator"] == "grpo")
    if not grpo["efficiency_low"] > 0:
        return (
            f"Which estimator to use cannot be told: with {prompts} prompts the policy gradient itself is not distinguishable from "
            "noise. Use more prompts or rollouts."
        )
    best = max((row for row in rows if row["estimator"] != CEILING), key=lambda row: row["relative"])
    name, share = (
        best["estimator"],
        f"{best['relative']:.2f} ({best['relative_low']:.2f} to {best['relative_high']:.2f})",
    )
    if best["relative_low"] > 1:
        return (
            f"Use {name}: a step with it gains {share} times what a step with grpo gains, and in {best['best']:.0%} of the bootstrap's "
            f"draws it is the best of {len(rows) - 1}."
        )
    excess = max(best["relative"] - 1, 1e-3)
    needed = prompts * max(1.0, (1 - best["relative_low"]) / excess) ** 2
    if name == "grpo":
        return f"Use grpo: in {best['best']:.0%} of the bootstrap's draws it is the best of {len(rows) - 1}, and none is above it."
    return (
        f"Use grpo, as no estimator is detectably better: {name} is at {share} times its gain. If that is its true value, about "
        f"{needed:,.0f} prompts instead of {prompts} would show it."
    )
