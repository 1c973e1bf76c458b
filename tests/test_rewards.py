import pytest
import sacrebleu

from verl_leaf.rewards import sentence_bleu

REFERENCE = "zwei alte Hunde schlafen im Garten"


def score(answer, reference=REFERENCE):
    return sentence_bleu("test", answer, reference)["score"]


def test_equals_sacrebleu_on_the_collapsed_strings():
    answer = "  zwei  alte Katzen\nschlafen im Garten\t"
    assert score(answer) == sacrebleu.sentence_bleu("zwei alte Katzen schlafen im Garten", [REFERENCE]).score / 100
    assert 0 < score(answer) < 1


def test_bounds_and_case():
    assert score(REFERENCE) == pytest.approx(1)
    assert score("") == 0
    assert score(REFERENCE.lower()) < 1


def test_several_references():
    assert score("a b c d", ["x y z w", "a b c d"]) == pytest.approx(1)
