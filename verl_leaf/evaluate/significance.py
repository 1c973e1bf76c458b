"""Uncertainty of scores and of differences: jackknife intervals, randomisation tests, and Holm's correction.

The unit is a cluster: all answers, of all passes, to the rows that share a clip. These answers are not independent, so
intervals with single answers as units would be too narrow. README.md has a simulation of the intervals' coverage and the
test's error rate, on which the constants below are based.

Letters: C clusters, P passes, S numbers per answer (:class:`verl_leaf.evaluate.metrics.Scorer`), ``...`` any further axes,
such as the trials of the simulation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from verl_leaf.common.intervals import wilson
from verl_leaf.evaluate.metrics import Scorer

FEWEST_FOR_AN_INTERVAL = 30  # clusters; with fewer, intervals of skewed scores cover too rarely
FEWEST_DIFFERENT = 10  # clusters with another value than the most common one; with fewer, the variance is unknown
FEWEST_BELIEVED = 8  # such clusters; from there on, Wilson's interval uses the count that the variance implies
FEWEST_FOR_A_TEST = 6  # clusters; 5 that all agree have p = 2 / 2**5 > 0.05
TRIALS = 10_000  # random swaps, if there are too many clusters to try all
TRIALS_PER_TEST = 200  # per test that is corrected together, so that the smallest p is 0.005 after Holm's correction
BLOCK = 500  # swaps in memory at once


@dataclass(frozen=True)
class Estimate:
    """The score of a system; unknown values are None."""

    mean: float | None  # mean of the scores of the passes that have one
    # Standard deviation of these scores (n - 1), which shows how much sampling the answers again changes it.
    spread: float | None
    # 95 % interval of `mean`, which shows how much it changes with other rows.
    low: float | None
    high: float | None
    clusters: int  # number of independent units


@dataclass(frozen=True)
class Difference:
    """The score of one system minus that of another; unknown values are None."""

    value: float  # difference of the means over passes
    # 95 % interval of the difference.
    low: float | None
    high: float | None
    # Two-sided p-value of a randomisation test (Riezler and Maxwell 2005), which tries all swaps if they are few.
    p: float | None
    clusters: int  # number of independent units for which both systems have scores


def clusters_of(keys: Sequence[tuple]) -> np.ndarray:
    """Return the number of each row's cluster. Rows with the same key share one; a row with an empty key is alone."""
    numbers: dict = {}
    return np.array([numbers.setdefault(key or n, len(numbers)) for n, key in enumerate(keys)])


def summed(table: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return the sums by cluster, ``[C, P, S]``, of statistics ``[rows, P, S]``. NaN is missing.

    Clusters without a value are left out.
    """
    there = ~np.isnan(table).all(axis=(1, 2))
    numbers, places = np.unique(clusters[there], return_inverse=True)
    sums = np.zeros((len(numbers), *table.shape[1:]))
    np.add.at(sums, places, np.nan_to_num(table[there]))
    return sums


def has_score(scorer: Scorer, sums: np.ndarray) -> bool:
    """Return whether a system's statistics ``[C, P, S]`` give a score."""
    return len(sums) > 0 and not np.isnan(_of_passes(scorer, sums.sum(axis=0)))


def estimate(scorer: Scorer, sums: np.ndarray) -> Estimate:
    """Return the score of a system from its statistics ``[C, P, S]``."""
    passes = scorer.score(sums.sum(axis=0))
    passes = passes[~np.isnan(passes)]
    if not len(passes):
        return Estimate(None, None, None, None, 0)
    low, high = map(_known, interval(scorer, sums))
    spread = float(passes.std(ddof=1)) if len(passes) > 1 else None
    return Estimate(float(passes.mean()), spread, low, high, len(sums))


def compare(scorer: Scorer, sums: np.ndarray, other: np.ndarray, trials: int = TRIALS) -> Difference:
    """Compare two systems by statistics ``[C, P, S]`` of the same answers; :func:`p_value` explains ``trials``."""
    if sums.shape != other.shape:
        raise ValueError(f"statistics of {sums.shape} and {other.shape} cannot be compared")
    value = float(_of_passes(scorer, sums.sum(axis=0)) - _of_passes(scorer, other.sum(axis=0)))
    low, high = map(_known, interval(scorer, sums, other))
    p = float(p_value(scorer, sums, other, trials)) if len(sums) >= FEWEST_FOR_A_TEST else None
    return Difference(value, low, high, p, len(sums))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple tests (Holm 1979), in the same order."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()


def interval(scorer: Scorer, sums: np.ndarray, other: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of a score or of a difference, or NaN if there are too few clusters.

    It is Student's interval for the jackknife's pseudo-values, corrected for their skewness (Hall 1992). If nearly all
    clusters agree, it is Wilson's interval for a mean on a bounded scale, and NaN for any other score.

    Args:
        sums: statistics of a system, ``[C, ..., P, S]``.

    Returns:
        Both ends, ``[...]`` each.
    """
    nothing = np.full(sums.shape[1:-2], np.nan)
    if len(sums) < FEWEST_FOR_AN_INTERVAL:
        return nothing, nothing
    parts = [_parts(scorer, system) for system in (sums, other) if system is not None]
    score, pseudo, values = map(_minus, zip(*parts, strict=True))
    low, high = _skewed_t(score, pseudo)
    values = np.nan_to_num(values)  # a cluster may have no reference words
    differing = np.count_nonzero(np.abs(values - np.median(values, axis=0)) > 1e-9, axis=0)
    ends = nothing, nothing
    if other is None and scorer.scale is not None:
        low, high = np.maximum(low, scorer.scale[0]), np.minimum(high, scorer.scale[1])
        ends = _wilson(sums, score, pseudo, differing, scorer.scale)
    few = differing < FEWEST_DIFFERENT
    return np.where(few, ends[0], low), np.where(few, ends[1], high)


def p_value(scorer: Scorer, sums: np.ndarray, other: np.ndarray, trials: int) -> np.ndarray:
    """Return the two-sided p-value ``[...]`` of the difference between two systems' statistics ``[C, ..., P, S]``.

    It is the share of swaps of the systems' answers, by cluster, after which the scores differ at least as much. If there
    are more swaps than ``trials``, this many random ones are tried.
    """
    C, both = len(sums), np.concatenate([sums, other])
    seen = np.abs(_of_passes(scorer, sums.sum(axis=0)) - _of_passes(scorer, other.sum(axis=0)))
    exact = trials >= 2**C
    rng, as_far, count = np.random.default_rng(0), np.zeros_like(seen), 2**C if exact else trials
    for first in range(0, count, BLOCK):
        numbers = np.arange(first, min(first + BLOCK, count))
        stays = numbers[:, None] >> np.arange(C) & 1 if exact else rng.integers(0, 2, size=(len(numbers), C))
        one, two = (
            _of_passes(scorer, np.tensordot(np.concatenate(halves, axis=1).astype(float), both, axes=1))
            for halves in ((stays, 1 - stays), (1 - stays, stays))
        )
        # With a tolerance for rounding; a swap after which a system has no score counts as well.
        as_far += np.count_nonzero(~(np.abs(one - two) < seen - 1e-9), axis=0)
    return as_far / count if exact else (as_far + 1) / (count + 1)


def _known(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def _minus(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] - parts[1] if len(parts) == 2 else parts[0]


def _of_passes(scorer: Scorer, sums: np.ndarray) -> np.ndarray:
    """Return the mean of the passes' scores, ``[..., P, S]`` -> ``[...]``, without passes that have no score."""
    scores = scorer.score(sums)
    there = ~np.isnan(scores)
    counts = there.sum(axis=-1)
    return np.where(counts, np.where(there, scores, 0).sum(axis=-1) / np.maximum(counts, 1), np.nan)


def _parts(scorer: Scorer, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the score ``[...]``, the jackknife's pseudo-values ``[C, ...]``, and the clusters' scores ``[C, ...]``."""
    total, C = sums.sum(axis=0), len(sums)
    score, without = _of_passes(scorer, total), _of_passes(scorer, total - sums)
    without = np.where(np.isnan(without), score, without)
    return score, C * score - (C - 1) * without, _of_passes(scorer, sums)


def _skewed_t(score: np.ndarray, pseudo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an interval whose ends are the wider ones of Student's interval and its transform for skewness (Hall 1992).

    The transform covers skewed scores better, but worse if both tails are heavy.
    """
    C, spread, residuals = len(pseudo), pseudo.std(axis=0, ddof=1), pseudo - pseudo.mean(axis=0)
    skewness = (residuals**3).mean(axis=0) / np.maximum(pseudo.std(axis=0), 1e-100) ** 3
    skewness = np.where(np.abs(skewness) < 1e-6, 1e-6, skewness)

    def end(quantile: float) -> np.ndarray:
        return 3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / (6 * C))) - 1)

    quantile = float(t.ppf(0.975, C - 1)) / C**0.5
    down, up = np.maximum(end(quantile), quantile), np.minimum(end(-quantile), -quantile)
    return score - down * spread, score - up * spread


def _wilson(
    sums: np.ndarray, score: np.ndarray, pseudo: np.ndarray, differing: np.ndarray, scale: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's interval of a mean on a bounded scale.

    The effective number of observations is between the number of clusters (fewer if their sizes differ, Kish 1965) and
    that of answers. The jackknife's variance implies a number, but is itself uncertain if nearly all clusters agree. So
    the number grows from the least to the implied one in proportion to the clusters that differ.
    """
    worst, width = scale[0], scale[1] - scale[0]
    weights = sums[..., -1].sum(axis=-1)
    most = weights.sum(axis=0)
    least = most**2 / (weights**2).sum(axis=0)
    share = np.clip((score - worst) / width, 0, 1)
    variance = np.maximum(pseudo.var(axis=0, ddof=1) / len(pseudo), 1e-300)
    count = np.clip(share * (1 - share) * width**2 / variance, least, most)
    low, high = wilson(share, least + (count - least) * np.minimum(differing / FEWEST_BELIEVED, 1))
    return worst + width * low, worst + width * high
