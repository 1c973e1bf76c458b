"""The signal of a step with each estimator, computed from tokens, rewards and the tokens' gradients.

The rollouts of a prompt are split into halves. Many random groups of ``K`` from one half are steps: ``g`` is the
gradient of the loss with an estimator's advantages, averaged over the tokens of a response and over responses (verl's
``seq-mean-token-mean``). The other half gives ``G``, the gradient of the mean reward: REINFORCE with the mean of the
other rewards as the baseline, summed over tokens. So ``g`` and ``G`` are independent. The two ``G`` are independent,
too, so their inner product is an unbiased estimate of ``|G|^2``.

Rollouts with a common prefix have the same token gradients in it. An *edge* is a token after a prefix, and every
gradient is a sum over edges. So only the inner products of the edges are needed from the model.

Letters: ``M`` rollouts of a prompt, ``T`` tokens, ``E`` edges, ``R`` groups of both halves, ``K`` responses of a group.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor

from verl_leaf.algorithm import grpo_advantages, grpo_prefix_advantages
from verl_leaf.algorithm.estimators import ESTIMATORS, Rollouts

GROUPS = 32  # groups of each half
DRAWS = 2000  # draws of the bootstrap
CEILING = "tree ceiling"
NAMES = ("grpo", *ESTIMATORS, CEILING)
BLOCK = 2048  # number of edges whose inner products are in memory at a time


@dataclass(frozen=True)
class Prompt:
    """The rollouts of a prompt."""

    tokens: Tensor  # `[M, T]` int64, 0 after the end of a response
    lengths: Tensor  # `[M]` int64, 1 or more
    rewards: Tensor  # `[M]` float64
    surprisal: Tensor  # `[M, T]` float64, `-log p(token)` under the sampling distribution

    @property
    def mask(self) -> Tensor:
        """``[M, T]`` bool, True for tokens of a response."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def edges(self) -> tuple[Tensor, Tensor]:
        """Return the edge of each token, int64 ``[M, T]``, -1 after the end; and a rollout and position of each, ``[E, 2]``."""
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
    """The signal of a prompt for one estimator, as means over the prompt's groups."""

    gain: float  # mean of `<g, G>`
    cost: float  # mean of `|g|^2`
    aligned: float  # mean of `<g, G> / |g|`, 0 if `g` is 0


def draw_groups(prompts: int, rollouts: int, K: int, seed: int) -> Tensor:
    """Return ``[prompts, R, K]``, the rollouts of random groups; the first half of ``R`` uses the first half of the rollouts."""
    draw = torch.Generator().manual_seed(seed)
    half = rollouts // 2
    chosen = torch.rand(prompts, 2 * GROUPS, half, generator=draw).argsort(2)[..., :K]
    return chosen + half * (torch.arange(2 * GROUPS) >= GROUPS)[:, None]


def step_advantages(prompts: Sequence[Prompt], groups: Tensor) -> dict[str, Tensor]:
    """Return the advantages of all groups with every estimator and its default options.

    The ceiling uses the best baseline in the tree of all rollouts: shrunk node means as in ``grpo_prefix``, but from
    all other rollouts of the prompt instead of the group's. So no baseline from a group can be as good.

    Args:
        prompts: rollouts of each prompt. Estimators may pool over prompts, as ``grpo_prefix`` does for ``kappa``.
        groups: ``[prompts, R, K]``, from `draw_groups`.

    Returns:
        ``[prompts, R, K, T]`` float64, by the names in `NAMES`.
    """
    P, R, K = groups.shape
    T = max(prompt.tokens.shape[1] for prompt in prompts)

    def stacked(of_prompts: Sequence[Tensor]) -> Tensor:
        """Return ``[P, M, T]`` from ``[M, t]`` each."""
        return torch.stack([torch.nn.functional.pad(rows, (0, T - rows.shape[1])) for rows in of_prompts])

    def of_groups(rows: Tensor) -> Tensor:
        """Return ``[P * R * K, ...]`` from ``[P, M, ...]``."""
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
    advantages = {"grpo": grpo_advantages(rollouts.rewards, rollouts.group)[:, None] * rollouts.mask}
    advantages |= {name: row.function(rollouts, row.options()).advantages for name, row in ESTIMATORS.items()}
    advantages[CEILING] = of_groups(whole.advantages.view(P, M, T))
    return {name: advantages[name].view(P, R, K, T) for name in NAMES}


def signals(
    prompt: Prompt, groups: Tensor, advantages: dict[str, Tensor], factors: Sequence[Tensor]
) -> tuple[float, dict[str, Signal]]:
    """Return how the steps of a prompt compare with its policy gradient.

    Args:
        prompt: rollouts of the prompt.
        groups: ``[R, K]``, the rollouts of each group.
        advantages: estimator -> ``[R, K, T]``.
        factors: ``[E, n]`` each, on one device. The inner product of two edges' gradients is the product, over the
            factors, of the inner products of their rows.

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
        of_side = slice(side * half, (side + 1) * half)
        rewards = prompt.rewards[of_side]
        weight = (rewards - rewards.mean()) / (half - 1)  # leave-one-out, over half
        truth[side].index_add_(0, place[of_side].flatten(), (weight[:, None] * mask[of_side]).flatten())
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
    other = (torch.arange(R) < R // 2).long()  # a step of the first half is compared with the gradient of the second
    inner = (products[2:].view(-1, R, number) * rows[:2][other]).sum(-1)
    square = (products[2:] * rows[2:]).sum(-1).view(-1, R).clamp(min=0)
    aligned = torch.where(square > 0, inner / square.sqrt(), 0)
    means = zip(inner.mean(1).tolist(), square.mean(1).tolist(), aligned.mean(1).tolist(), strict=True)
    return float(rows[0] @ products[1]), {name: Signal(*mean) for name, mean in zip(advantages, means, strict=True)}


def summarise(size: Sequence[float], of_prompts: Sequence[dict[str, Signal]]) -> list[dict]:
    """Return means over prompts, with 95 % intervals from a bootstrap over prompts.

    Args:
        size: ``|G|^2`` of each prompt.
        of_prompts: signals of each prompt.

    Returns:
        A row per estimator. ``efficiency`` is ``<E g, G>^2 / (|G|^2 E |g|^2)``, the share of the best step's
        first-order gain that a step has, with the sign of the gain. ``cosine`` is that between a step and ``G``. ``relative`` is the
        efficiency divided by that of ``grpo``. ``best`` is the share of draws in which an estimator has the largest
        efficiency. The first three have ``_low`` and ``_high``. If ``|G|^2`` is not above 0, the first two are NaN; so
        is an interval if more than 2.5 % of the draws are.
    """
    names = list(of_prompts[0])
    values = np.array([[astuple(signal) for signal in prompt.values()] for prompt in of_prompts])  # [P, names, 3]
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
            drawn = of_draws[1:, number]
            known = np.isfinite(drawn).mean() >= 0.975  # the others could be anywhere
            low, high = np.nanquantile(drawn, (0.025, 0.975)) if known else (np.nan, np.nan)
            row |= {measure: float(of_draws[0, number]), f"{measure}_low": float(low), f"{measure}_high": float(high)}
        rows.append(row | {"best": float((winner == number).mean())})
    return rows


def verdict(rows: list[dict], prompts: int) -> str:
    """Return a sentence on which estimator to use, how certain that is, and how many prompts would make it clearer."""
    grpo = next(row for row in rows if row["estimator"] == "grpo")
    if not grpo["efficiency_low"] > 0:
        return (
            f"It is unknown which estimator to use: with {prompts} prompts the policy gradient itself cannot be distinguished from "
            "noise. Use more prompts or rollouts."
        )
    best = max((row for row in rows if row["estimator"] != CEILING), key=lambda row: row["relative"])
    name = best["estimator"]
    share = f"{best['relative']:.2f} ({best['relative_low']:.2f} to {best['relative_high']:.2f})"
    if best["relative_low"] > 1:
        return (
            f"Use {name}: a step with it gains {share} times as much as a step with grpo. In {best['best']:.0%} of the bootstrap's "
            f"draws it is the best of {len(rows) - 1}."
        )
    excess = max(best["relative"] - 1, 1e-3)
    needed = prompts * max(1.0, (1 - best["relative_low"]) / excess) ** 2
    if name == "grpo":
        return (
            f"Use grpo: in {best['best']:.0%} of the bootstrap's draws it is the best of {len(rows) - 1}, and no other has "
            "a higher gain."
        )
    return (
        f"Use grpo, because no estimator is detectably better: {name} gains {share} times as much. If that is its true gain, about "
        f"{needed:,.0f} prompts instead of {prompts} would show it."
    )
