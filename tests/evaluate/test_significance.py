"""Intervals and tests against sacrebleu's, against exact answers, and in the simulation whose table is in the README."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_leaf.common.intervals import wilson
from verl_leaf.evaluate.metrics import ScoreOptions, build, judged
from verl_leaf.evaluate.significance import clusters_of, compare, estimate, holm, summed

MATCH = build("exact_match", ScoreOptions())


def matches(hits: list[list[int]]) -> np.ndarray:
    """Statistics of exact match, ``[clusters, passes, 2]``."""
    return np.stack([np.array(hits), np.ones_like(hits)], axis=-1).astype(float)


def test_mean_and_spread_are_of_passes_and_the_interval_of_clusters():
    found = estimate(MATCH, matches([[1, 0], [1, 1], [0, 0], [1, 0]] * 10))
    assert (found.mean, found.spread, found.clusters) == (0.5, pytest.approx(np.std([0.75, 0.25], ddof=1)), 40)
    # The mean of 40 independent clusters whose values are 0.5, 1, 0, 0.5: symmetric, so Student's interval.
    half = 2.0227 * np.std([0.5, 1, 0, 0.5] * 10, ddof=1) / np.sqrt(40)
    assert (found.low, found.high) == (pytest.approx(0.5 - half, abs=1e-4), pytest.approx(0.5 + half, abs=1e-4))
    one = estimate(MATCH, matches([[1]]))
    assert (one.mean, one.spread, one.low, one.high) == (1, None, None, None)


def test_rows_that_share_a_clip_are_one_cluster():
    keys = [("a",), ("b",), ("a",), (), (), ("a", "b")]
    assert clusters_of(keys).tolist() == [0, 1, 0, 2, 3, 4]
    table = matches([[1], [0], [1], [1], [0], [1]])
    assert summed(table, clusters_of(keys))[:, 0].tolist() == [[2, 2], [0, 1], [1, 1], [0, 1], [1, 1]]
    # Copies of a row in its cluster add no evidence.
    alone, copied = matches([[1], [0]] * 20), np.repeat(matches([[1], [0]] * 20), 9, axis=0)
    wide = estimate(MATCH, summed(copied, np.repeat(np.arange(40), 9)))
    assert (wide.low, wide.high) == pytest.approx([getattr(estimate(MATCH, alone), end) for end in ("low", "high")])


@pytest.mark.parametrize("trials", [2**8, 2**8 - 1])
def test_randomisation_is_exact_if_all_swaps_can_be_counted(trials):
    ours, theirs = matches([[1]] * 5 + [[0]] * 3), matches([[0]] * 4 + [[1], [1]] + [[0]] * 2)
    gaps = (ours - theirs)[:, 0, 0]
    extreme = [abs(np.dot(signs, gaps)) >= abs(gaps.sum()) for signs in itertools.product((1, -1), repeat=len(gaps))]
    found = compare(MATCH, ours, theirs, trials)
    assert found.value == pytest.approx(gaps.mean())
    assert found.p == pytest.approx(np.mean(extreme), abs=0 if trials == 2**8 else 0.07)


def test_a_swap_without_a_score_is_no_evidence():
    """All references' words are in one clip of each system, so half of the swaps leave a system without a word."""
    rate = build("wer", ScoreOptions())
    one, two = np.zeros((2, 8, 1, 2))
    one[0], two[1] = [[1, 1]], [[0, 1]]
    assert compare(rate, one, two).p == 1


def test_a_large_difference_and_none():
    many = compare(MATCH, matches([[1, 1]] * 54 + [[0, 0]] * 10), matches([[0, 1]] * 64))
    assert many.p < 0.001 and 0 < many.low < many.value < many.high
    same = compare(MATCH, matches([[1], [0]] * 19), matches([[1], [0]] * 19))
    assert (same.value, same.p, same.low, same.high) == (0, 1, None, None)


def test_too_few_clusters_say_nothing():
    """Not even that five of five, or all of two, are better is significant."""
    for count, p in ((1, None), (2, None), (5, None), (6, 2 / 2**6)):
        found = compare(MATCH, matches([[1]] * count), matches([[0]] * count))
        assert (found.value, found.low, found.high, found.p, found.clusters) == (1, None, None, p, count)
    assert estimate(MATCH, matches([[1]] * 10 + [[0]] * 19)).low is None
    assert estimate(MATCH, matches([[1]] * 10 + [[0]] * 20)).low > 0.1


def test_what_is_never_seen_has_a_width():
    found = estimate(MATCH, matches([[0] * 5] * 64))
    assert (found.mean, found.low, found.high) == (0, 0, pytest.approx(0.0566, abs=1e-4))  # Wilson's of 0 in 64
    grades = judged("j", "m", "likert", (1, 5))
    found = estimate(grades, np.array([[[4.0, 1.0]]] * 64))
    assert 3.5 < found.low < 4 < found.high < 4.5
    # Nothing bounds what was not seen of an error rate or a difference.
    wer = build("wer", ScoreOptions())
    assert estimate(wer, np.array([[[0.0, 9.0]]] * 64)).low is None
    assert compare(MATCH, matches([[0]] * 64), matches([[1]] * 64)).low is None


@pytest.mark.parametrize("passes", [1, 5])
def test_a_rare_event_is_worth_as_many_answers_as_its_clips_say(passes):
    """From one observation per clip if no clip tells, towards what the variance says: at ten clips it is believed."""
    whole = estimate(MATCH, matches([[1] * passes] * 9 + [[0] * passes] * 55))
    assert (whole.low, whole.high) == pytest.approx(wilson(9 / 64, 64), abs=0.002)  # all answers to a clip agree
    spread = estimate(MATCH, matches([[1] + [0] * (passes - 1)] * 9 + [[0] * passes] * 55))
    assert (spread.high - spread.low) < 0.75 * (whole.high - whole.low) or passes == 1


def graded(values: list[list[float]]) -> np.ndarray:
    table = np.array(values, dtype=float)
    return np.stack([table, np.where(np.isnan(table), np.nan, 1)], axis=-1)


def test_a_missing_grade_is_missing():
    grades, none = judged("j", "m", "likert", (1, 5)), np.nan
    nothing = estimate(grades, summed(graded([[none, none]] * 40), np.arange(40)))
    assert (nothing.mean, nothing.spread, nothing.low, nothing.clusters) == (None, None, None, 0)
    # Only the first pass has grades, and only of some clusters.
    some = estimate(grades, summed(graded([[4, none], [5, none]] * 20 + [[none, none]] * 9), np.arange(49)))
    assert (some.mean, some.spread, some.clusters) == (4.5, None, 40) and 4 < some.low < 4.5 < some.high < 5
    few = estimate(grades, summed(graded([[4], [5]] + [[none]] * 38), np.arange(40)))
    assert (few.mean, few.low, few.clusters) == (4.5, None, 2)


def test_bleu_s_interval_is_about_sacrebleu_s():
    from sacrebleu.metrics import BLEU

    rng = np.random.default_rng(0)
    words = np.array(["the", "a", "cat", "dog", "sat", "ran", "on", "in", "mat", "house"])
    references = [" ".join(rng.choice(words, 8)) for _ in range(60)]
    answers = [" ".join(word if rng.random() < 0.8 else "x" for word in line.split()) for line in references]
    theirs = BLEU().corpus_score(answers, [references], n_bootstrap=1000)
    scorer = build("bleu", ScoreOptions())
    ours = estimate(scorer, scorer.statistics(answers, [[line] for line in references])[:, None])
    assert ours.mean == pytest.approx(theirs.score)
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs._ci, rel=0.15)


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(MATCH, matches([[1], [0]]), matches([[1, 1], [0, 1]]))


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
