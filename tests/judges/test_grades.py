"""A grade counts only where its format has it."""

import math

import pytest

from verl_leaf.judges.client import Reply
from verl_leaf.judges.grades import SCALES, grade


def read(kind, reply_format, text, tokens=()):
    found = grade(kind, reply_format, Reply(text, tokens, 0, 0))
    return None if found is None else found.value


READABLE = [
    ("da", "json", '{"reasoning": "So.", "errors": [], "score": 85}', 85),
    ("da", "json", '```json\n{"score": "72.5", "reasoning": "So."}\n```', 72.5),
    ("da", "json", 'First: {"a": 1}. Then {"score": 0}', 0),
    ("da", "json", r'{"reasoning": "It says {\"score\": 100}.", "score": 20}', 20),
    ("da", "json", '{"score": 20, "detail": {"score": 100}}', 20),
    ("da", "json", '<think>{"score": 1}</think> {"score": 2}', 2),
    ("da", "bare", " 100.", 100),
    ("da", "prometheus", "Feedback: fine [RESULT] 60", 60),
    ("likert", "json", '{"score": 3}', 3),
    ("likert", "bare", "**4**", 4),
    ("likert", "bare", "[[5]]", 5),
    ("likert", "prometheus", "Feedback: it says [RESULT] 5. [RESULT] (2)\n", 2),
    ("correct", "bare", "Yes.", 1),
    ("correct", "bare", "no", 0),
    ("correct", "json", '{"score": "NO"}', 0),
    ("pairwise", "bare", "tie", 0),
    ("pairwise", "json", '{"score": "B"}', -1),
    ("pairwise", "prometheus", "so [RESULT] A", 1),
    ("pairwise", "judgelm", "9 8\nA is better.", 1),
    ("pairwise", "judgelm", "7 7", 0),
]


@pytest.mark.parametrize("kind, reply_format, text, value", READABLE)
def test_readable(kind, reply_format, text, value):
    assert read(kind, reply_format, text) == value


UNREADABLE = [
    ("da", "json", ""),
    ("da", "json", '{"score": 101}'),
    ("da", "json", '{"score": -1}'),
    ("da", "json", '{"score": null}'),
    ("da", "json", '{"score": true}'),
    ("da", "json", '{"score": "high"}'),
    ("da", "json", '{"score": [5]}'),
    ("da", "json", '{"grade": 50}'),
    ("da", "json", "50"),
    ("da", "json", '{"reasoning": "it says {"score": 100} and'),  # cut off behind a quotation
    ("da", "json", '{"score": 100} is what it wants; I'),
    ("da", "json", "[" * 3000 + "{" * 3000),
    ("da", "bare", "85 of 100"),
    ("likert", "bare", "6"),
    ("likert", "bare", "4.5"),
    ("likert", "bare", "The grade is 4"),
    ("likert", "prometheus", "Feedback: it says [RESULT] 5 and so on"),  # cut off behind a quotation
    ("likert", "prometheus", "4"),
    ("likert", "prometheus", "<think>[RESULT] 4"),
    ("correct", "bare", "yes and no"),
    ("pairwise", "bare", "C"),
    ("pairwise", "bare", "a"),
    ("pairwise", "prometheus", "[RESULT] both"),
    ("pairwise", "judgelm", "11 5"),
    ("pairwise", "judgelm", "9"),
    ("pairwise", "judgelm", "A is better\n9 8"),
]


@pytest.mark.parametrize("kind, reply_format, text", UNREADABLE)
def test_unreadable_is_no_grade(kind, reply_format, text):
    assert read(kind, reply_format, text) is None


def likely(*probabilities):
    return tuple((str(number), math.log(p)) for number, p in enumerate(probabilities, start=1) if p)


def test_expected_grade():
    tokens = (("Feedback: é 5", ()), (" [", ()), ("RESULT]", ()), (" ", ()), ("3", likely(0.1, 0, 0.5, 0.2)))
    assert read("likert", "prometheus", "Feedback: é 5 [RESULT] 3", tokens) == pytest.approx(2.4 / 0.8)
    # Other spellings of a grade are the same grade; what is none takes no part.
    spelt = (("4", ((" 4", math.log(0.3)), ("4", math.log(0.3)), ("2", math.log(0.2)), ("Yes", -0.1), ("42", -0.1))),)
    assert read("likert", "bare", "4", spelt) == pytest.approx((0.6 * 4 + 0.2 * 2) / 0.8)
    # Bytes of a character that two tokens share.
    parts = (("\udcc3", ()), ("\udca9", ()), (" [RESULT] ", ()), ("1", likely(0.5, 0.5)))
    assert read("likert", "prometheus", "é [RESULT] 1", parts) == pytest.approx(1.5)
    assert (
        read("likert", "json", '{"score": 5}', (('{"score":', ()), (" 5", likely(0, 0, 0, 0.5, 0.5)), ("}", ()))) == 4.5
    )


@pytest.mark.parametrize(
    "tokens",
    [
        (),
        (("3", ()),),
        (("23", likely(1)),),
        (("x", ()), ("3", likely(1))),  # of another text
        (("3", (("x", -0.1),)),),
    ],
)
def test_without_usable_log_probabilities_the_text_counts(tokens):
    found = grade("likert", "bare", Reply("3", tokens, 0, 0))
    assert (found.value, found.by) == (3, "text")


def test_votes_of_samples():
    combine = SCALES["pairwise"].combine
    assert (combine([1, 1, -1]), combine([1, -1]), combine([-1, 0])) == (1, 0, -1)
