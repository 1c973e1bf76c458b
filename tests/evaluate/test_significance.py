"""Intervals and tests against sacrebleu's, against the exact answer where it can be counted, and on data without effect."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_leaf.evaluate import significance
from verl_leaf.evaluate.metrics import Settings, build
from verl_leaf.evaluate.significance import clusters_of, compare, estimate, holm, summed

MATCH = build("exact_match", Settings())


def matches(hits: list[list[int]]) -> np.ndarray:
    """Statistics of exact match, ``[clusters, passes, 2]``."""
    return np.stack([np.array(hits), np.ones_like(hits)], axis=-1).astype(float)


def test_mean_and_spread_are_of_passes_and_the_interval_of_clusters():
    found = estimate(MATCH, matches([[1, 0], [1, 1], [0, 0], [1, 0]] * 10))
    assert (found.mean, found.spread) == (0.5, pytest.approx(np.std([0.75, 0.25], ddof=1)))
    # The mean of 40 independent clusters whose values are 0.5, 1, 0, 0.5.
    half = 1.96 * np.std([0.5, 1, 0, 0.5]) / np.sqrt(40)
    assert (found.low, found.high) == (pytest.approx(0.5 - half, abs=0.03), pytest.approx(0.5 + half, abs=0.03))
    one = estimate(MATCH, matches([[1]]))
    assert (one.mean, one.spread, one.low, one.high) == (1, None, None, None)


def test_rows_that_share_a_clip_are_drawn_together():
    keys = [("a",), ("b",), ("a",), (), (), ("a", "b")]
    assert clusters_of(keys).tolist() == [0, 1, 0, 2, 3, 4]
    table = matches([[1], [0], [1], [1], [0], [1]])
    assert summed(table, clusters_of(keys))[:, 0].tolist() == [[2, 2], [0, 1], [1, 1], [0, 1], [1, 1]]
    # Copies of a row in its cluster are no further evidence.
    alone, copied = matches([[1], [0]] * 20), np.repeat(matches([[1], [0]] * 20), 9, axis=0)
    wide = estimate(MATCH, summed(copied, np.repeat(np.arange(40), 9)))
    assert (wide.low, wide.high) == pytest.approx([getattr(estimate(MATCH, alone), end) for end in ("low", "high")])


def test_randomisation_is_exact_where_all_swaps_can_be_counted():
    ours, theirs = matches([[1]] * 5 + [[0]] * 3), matches([[0]] * 4 + [[1], [1]] + [[0]] * 2)
    gaps = (ours - theirs)[:, 0, 0]
    extreme = [abs(np.dot(signs, gaps)) >= abs(gaps.sum()) for signs in itertools.product((1, -1), repeat=len(gaps))]
    found = compare(MATCH, ours, theirs)
    assert found.value == pytest.approx(gaps.mean())
    assert found.p_randomisation == pytest.approx(np.mean(extreme), abs=0.02)


def test_a_large_and_a_missing_difference():
    many = compare(MATCH, matches([[1, 1]] * 60 + [[0, 0]] * 4), matches([[0, 1]] * 64))
    assert many.p_randomisation < 0.001 and many.p_bootstrap < 0.002 and 0 < many.low < many.value < many.high
    same = compare(MATCH, matches([[1], [0]] * 9), matches([[1], [0]] * 9))
    assert (same.value, same.low, same.high, same.p_bootstrap, same.p_randomisation) == (0, 0, 0, 1, 1)


def test_without_an_effect_few_are_significant():
    """At 5 % of either test, of 200 pairs of systems that do not differ."""
    rng = np.random.default_rng(1)
    hits = rng.integers(0, 2, size=(200, 2, 40, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(significance, "TRIALS", 500)
        found = [compare(MATCH, matches(one), matches(other)) for one, other in hits]
    for kind in ("p_bootstrap", "p_randomisation"):
        assert np.mean([getattr(each, kind) < 0.05 for each in found]) < 0.1


def test_bleu_s_interval_is_sacrebleu_s():
    from sacrebleu.metrics import BLEU

    rng = np.random.default_rng(0)
    words = np.array(["the", "a", "cat", "dog", "sat", "ran", "on", "in", "mat", "house"])
    references = [" ".join(rng.choice(words, 8)) for _ in range(60)]
    answers = [" ".join(word if rng.random() < 0.8 else "x" for word in line.split()) for line in references]
    theirs = BLEU().corpus_score(answers, [references], n_bootstrap=1000)
    scorer = build("bleu", Settings())
    ours = estimate(scorer, scorer.statistics(answers, [[line] for line in references])[:, None])
    assert ours.mean == pytest.approx(theirs.score)
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs._ci, rel=0.15)


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(MATCH, matches([[1], [0]]), matches([[1, 1], [0, 1]]))
    with pytest.raises(ValueError, match="one clip"):
        compare(MATCH, matches([[1]]), matches([[0]]))


def test_holm_by_hand():
    # Holm (1979): 4 x .01, 3 x .02, 2 x .03, 1 x .04, never less than the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1] and holm([]) == []


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=20))
def test_holm_lies_between_none_and_bonferroni(p_values):
    corrected = np.array(holm(p_values))
    assert (corrected >= np.array(p_values) - 1e-12).all()
    assert (corrected <= np.minimum(np.array(p_values) * len(p_values), 1) + 1e-12).all()
    assert (np.argsort(corrected, kind="stable") == np.argsort(p_values, kind="stable")).all() or len(
        set(corrected)
    ) < len(p_values)
