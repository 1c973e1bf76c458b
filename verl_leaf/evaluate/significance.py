"""How sure a score is, and whether two systems differ: bootstrap, approximate randomisation, Holm's correction.

The unit that is drawn, or swapped, is a cluster: all answers, of all passes, to the rows that share a clip. They are not
independent, so drawing answers one by one would make intervals too narrow.

Letters: C clusters, P passes, S numbers per answer (:class:`verl_leaf.evaluate.metrics.Scorer`), D draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verl_leaf.evaluate.metrics import Scorer

DRAWS = 1000  # of a bootstrap
TRIALS = 10_000  # of the randomisation: Holm's correction multiplies the least p that these can show
BLOCK = 500  # draws in memory at once
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A score of a system.

    Attributes:
        mean: of the scores of its passes.
        spread: their standard deviation (n - 1): how much sampling answers again changes a score. None of one pass.
        low, high: 95 % bootstrap interval of ``mean`` over clusters: how much other rows would. None of one cluster.
    """

    mean: float
    spread: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """The score of one system less that of another.

    Attributes:
        value: of the means over passes.
        low, high: 95 % interval of the paired bootstrap.
        p_bootstrap: two-sided, of the same (Koehn 2004, centred as in sacrebleu).
        p_randomisation: two-sided, of approximate randomisation (Riezler and Maxwell 2005).
    """

    value: float
    low: float
    high: float
    p_bootstrap: float
    p_randomisation: float


def clusters_of(keys: Sequence[tuple]) -> np.ndarray:
    """The number of each row's cluster; rows with the same key share one, an empty key is a cluster of its own."""
    numbers: dict = {}
    return np.array([numbers.setdefault(key or n, len(numbers)) for n, key in enumerate(keys)])


def summed(table: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Statistics ``[rows, P, S]`` added up by cluster, ``[C, P, S]``."""
    sums = np.zeros((int(clusters.max()) + 1, *table.shape[1:]))
    np.add.at(sums, clusters, table)
    return sums


def estimate(scorer: Scorer, sums: np.ndarray) -> Estimate:
    """The score of a system from its statistics ``[C, P, S]``."""
    passes = scorer.score(sums.sum(axis=0))
    low, high = (None, None)
    if len(sums) > 1:
        low, high = map(float, np.quantile(_redrawn(scorer, sums), (0.025, 0.975)))
    return Estimate(float(passes.mean()), float(passes.std(ddof=1)) if len(passes) > 1 else None, low, high)


def compare(scorer: Scorer, sums: np.ndarray, other: np.ndarray) -> Difference:
    """One system against another, both ``[C, P, S]`` of the same clusters and passes.

    Raises:
        ValueError: their shapes differ, or there is only one cluster.
    """
    if sums.shape != other.shape:
        raise ValueError(f"statistics of {sums.shape} and {other.shape} cannot be compared")
    if len(sums) < 2:
        raise ValueError("all rows share one clip: nothing can be said of a difference")
    value = float(_of_passes(scorer, sums.sum(axis=0)) - _of_passes(scorer, other.sum(axis=0)))
    drawn = _redrawn(scorer, sums) - _redrawn(scorer, other)
    low, high = map(float, np.quantile(drawn, (0.025, 0.975)))
    return Difference(
        value=value,
        low=low,
        high=high,
        p_bootstrap=_p(np.abs(drawn - drawn.mean()), value),
        p_randomisation=_p(np.abs(_swapped(scorer, sums, other)), value),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the same order."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()


def _p(extremes: np.ndarray, value: float) -> float:
    """The share of draws at least as far out as ``value``, which counts as one; with room for rounding."""
    return float((np.count_nonzero(extremes >= abs(value) - 1e-9) + 1) / (len(extremes) + 1))


def _of_passes(scorer: Scorer, sums: np.ndarray) -> np.ndarray:
    """Mean of the passes' scores: ``[..., P, S]`` -> ``[...]``."""
    return scorer.score(sums).mean(axis=-1)


def _redrawn(scorer: Scorer, sums: np.ndarray) -> np.ndarray:
    """Scores ``[D]`` of as many clusters drawn with replacement; every call draws the same ones."""
    rng, C = np.random.default_rng(SEED), len(sums)
    blocks = [rng.multinomial(C, np.full(C, 1 / C), size=min(BLOCK, DRAWS - n)) for n in range(0, DRAWS, BLOCK)]
    return np.concatenate([_weighted(scorer, sums, weights) for weights in blocks])


def _swapped(scorer: Scorer, sums: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Differences ``[D]`` where every cluster's answers went to either system with probability 1/2."""
    rng, C = np.random.default_rng(SEED), len(sums)
    both, differences = np.concatenate([sums, other]), []
    for n in range(0, TRIALS, BLOCK):
        kept = rng.integers(0, 2, size=(min(BLOCK, TRIALS - n), C))
        ours = _weighted(scorer, both, np.concatenate([kept, 1 - kept], axis=1))
        theirs = _weighted(scorer, both, np.concatenate([1 - kept, kept], axis=1))
        differences.append(ours - theirs)
    return np.concatenate(differences)


def _weighted(scorer: Scorer, sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scores ``[n]`` of sums over clusters, weighted by ``weights`` ``[n, C]``."""
    return _of_passes(scorer, np.tensordot(weights.astype(np.float64), sums, axes=1))
