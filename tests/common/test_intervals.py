"""Intervals are scipy's."""

import pytest
from scipy.stats import binomtest, ttest_1samp

from verl_leaf.common.intervals import t_interval, wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 3), (1, 7), (5, 5), (50, 211)])
def test_wilson(hits, count):
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.3, 0.1, 0.7, 0.2]])
def test_student_s_t(values):
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((expected.low, expected.high))
