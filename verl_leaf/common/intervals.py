"""95 % intervals of a proportion and of a mean."""

import statistics
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t

Z = float(norm.ppf(0.975))


def wilson(share, count):
    """Return both ends of Wilson's 95 % interval of a proportion. It has a positive width even for 0 and 1.

    Args:
        share: proportion of the observations, in [0, 1]; a number or an array.
        count: number of independent observations; an effective number may be fractional.
    """
    centre = share + Z**2 / (2 * count)
    half = Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    low, high = (centre - half) / (1 + Z**2 / count), (centre + half) / (1 + Z**2 / count)
    return np.maximum(low, 0), np.minimum(high, 1)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return both ends of Student's 95 % interval of the mean of two or more independent values."""
    mean, count = statistics.fmean(values), len(values)
    half = float(t.ppf(0.975, count - 1)) * statistics.stdev(values) / count**0.5
    return mean - half, mean + half
