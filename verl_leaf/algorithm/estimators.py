"""The table of all estimators: `ESTIMATORS`.

verl's registry and configuration, the checks, the doctor, the adapters for other trainers, the recipes and the benchmarks
read names, functions, options and metrics from it. `grpo` is not in it, because verl has it.
"""

import difflib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from verl_leaf.algorithm.arguments import is_kappa
from verl_leaf.algorithm.early import early_metrics
from verl_leaf.algorithm.forks import ForkAdvantages, Forks, find_forks
from verl_leaf.algorithm.grpo import grpo_floored_advantages
from verl_leaf.algorithm.lambda_grpo import lambda_grpo_advantages
from verl_leaf.algorithm.leaf import CREDITS, LeafAdvantages, leaf_advantages
from verl_leaf.algorithm.metrics import leaf_metrics
from verl_leaf.algorithm.options import COUNTS, NUMBERS, PATHS, POSITIVE_COUNTS, Options, Values, one_of, option
from verl_leaf.algorithm.prefix_baseline import grpo_prefix_advantages
from verl_leaf.algorithm.rows import last_position
from verl_leaf.algorithm.tempo import tempo_advantages
from verl_leaf.algorithm.tree import FORK_BUDGET, MIN_PREFIX_TOKENS

__all__ = [
    "COUNTS",
    "ESTIMATORS",
    "NUMBERS",
    "Credit",
    "Estimator",
    "Options",
    "Rollouts",
    "no_estimator",
    "one_of",
    "option",
]


@dataclass(frozen=True)
class Rollouts:
    """The responses of a step.

    Attributes:
        tokens: ``[N, T]`` integers, token ids.
        mask: ``[N, T]`` bool, True where the policy wrote the token.
        rewards: ``[N]`` floats, the terminal rewards.
        group: ``[N]`` integers ``0 .. G-1``, the prompt of each response, in any order.
        lengths: ``[N]`` integers, or None if a response ends at the last token in ``mask``.
        surprisal: ``[N, T]`` floats, ``-log p(token)`` in nats; None if the estimator does not need it.
    """

    tokens: Tensor
    mask: Tensor
    rewards: Tensor
    group: Tensor
    lengths: Tensor | None = None
    surprisal: Tensor | None = None


@dataclass(frozen=True)
class Credit:
    """The result of an estimator.

    Attributes:
        advantages: ``[N, T]``, 0 outside the mask.
        metrics: numbers for the trainer's log, by their names there.
        forks: forks of the responses, or None if the estimator did not compute them.
        leaf: trees and spans of LEAF, or None for other estimators.
    """

    advantages: Tensor
    metrics: dict[str, float] = field(default_factory=dict)
    forks: Forks | None = None
    leaf: LeafAdvantages | None = None


@dataclass(frozen=True)
class Estimator:
    """A row of the table of estimators.

    Attributes:
        function: function that computes advantages and the estimator's own metrics.
        needs_surprisal: True if it reads ``surprisal``.
    """

    function: Callable[[Rollouts, Any], Credit]
    options: type[Options] = Options
    needs_surprisal: bool = False

    def __call__(self, rollouts: Rollouts, options: Options) -> tuple[Credit, dict[str, float]]:
        """Return the result, and its metrics together with those of every estimator (`early_metrics`)."""
        credit, lengths = self.function(rollouts, options), rollouts.lengths
        lengths = last_position(rollouts.mask) + 1 if lengths is None else lengths
        forks = credit.forks or find_forks(rollouts.tokens, lengths, rollouts.group)
        early = {f"forks/{name}": value for name, value in early_metrics(forks, rollouts.rewards).items()}
        return credit, credit.metrics | early


@dataclass(frozen=True)
class LeafOptions(Options):
    """The options of `leaf`."""

    fork_budget: int = option(FORK_BUDGET, COUNTS, "most boundaries per prompt (B); 0 gives GRPO's z-score")
    min_prefix_tokens: int = option(MIN_PREFIX_TOKENS, COUNTS, "earliest position of a boundary (m)")
    credit: str = option(CREDITS[0], one_of(*CREDITS), "credit of a span: both, or for ablations global or local")
    surprisal: str = option(
        "rollout",
        one_of("rollout", "old"),
        "source of the log-probabilities: rollout for the engine that sampled, old for the actor",
        only_verl=True,
    )
    trace_dir: str | None = option(None, PATHS, "folder for the trees of every trace_every-th step", only_verl=True)
    trace_every: int = option(10, POSITIVE_COUNTS, "number of steps from one trace to the next", only_verl=True)


def leaf(rollouts: Rollouts, options: LeafOptions) -> Credit:
    """LEAF (arXiv 2606.07610)."""
    began = time.perf_counter()
    assert rollouts.surprisal is not None
    result = leaf_advantages(
        rollouts.tokens,
        rollouts.surprisal,
        rollouts.rewards,
        rollouts.mask,
        rollouts.group,
        lengths=rollouts.lengths,
        fork_budget=options.fork_budget,
        min_prefix_tokens=options.min_prefix_tokens,
        credit=options.credit,
    )
    seconds = time.perf_counter() - began
    metrics = leaf_metrics(result, rollouts.rewards, rollouts.mask) | {"seconds": seconds}
    return Credit(
        result.advantages, {f"leaf/{name}": value for name, value in metrics.items()}, result.tree.forks, result
    )


def _number_or_text(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


@dataclass(frozen=True)
class GrpoPrefixOptions(Options):
    """The options of `grpo_prefix`."""

    kappa: float | str = option(
        "auto",
        Values("auto and numbers of 0 or more", is_kappa, str, _number_or_text),
        "number of responses with which a longer prefix gets half the weight; auto estimates it from the batch",
    )
    norm_adv_by_std_in_grpo: bool = True  # a setting of verl


def grpo_prefix(rollouts: Rollouts, options: GrpoPrefixOptions) -> Credit:
    """GRPO with a shrunk prefix baseline."""
    result = grpo_prefix_advantages(
        rollouts.tokens,
        rollouts.rewards,
        rollouts.mask,
        rollouts.group,
        lengths=rollouts.lengths,
        kappa=options.kappa,
        by_std=options.norm_adv_by_std_in_grpo,
    )
    return Credit(result.advantages, {"grpo_prefix/kappa": result.kappa}, result.forks)


def tempo(rollouts: Rollouts, options: Options) -> Credit:
    """TEMPO (Findings of ACL 2026, arXiv 2509.18314)."""
    return _without_options(tempo_advantages, rollouts)


def lambda_grpo(rollouts: Rollouts, options: Options) -> Credit:
    """lambda-GRPO (ICML 2026, arXiv 2509.21154)."""
    return _without_options(lambda_grpo_advantages, rollouts)


def _without_options(function: Callable[..., ForkAdvantages], rollouts: Rollouts) -> Credit:
    columns = (rollouts.tokens, rollouts.rewards, rollouts.mask, rollouts.group)
    result = function(*columns, lengths=rollouts.lengths)
    return Credit(result.advantages, forks=result.forks)


def grpo_floored(rollouts: Rollouts, options: Options) -> Credit:
    """The GRPO baseline of arXiv 2606.07610."""  # noqa: D401
    return Credit(grpo_floored_advantages(rollouts.rewards, rollouts.group)[:, None] * rollouts.mask)


ESTIMATORS = {
    "leaf": Estimator(leaf, LeafOptions, needs_surprisal=True),
    "grpo_floored": Estimator(grpo_floored),
    "grpo_prefix": Estimator(grpo_prefix, GrpoPrefixOptions),
    "tempo": Estimator(tempo),
    "lambda_grpo": Estimator(lambda_grpo),
}


def no_estimator(name: object, names: Iterable[str]) -> str:
    """Return a sentence that an estimator is unknown, with the nearest of the known names (ignoring case) and all of them."""
    by_lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    question = f" Did you mean {by_lower[near[0]]}?" if near else ""
    return f"there is no such estimator.{question} Choose one of {', '.join(by_lower.values())}"
