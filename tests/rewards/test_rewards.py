"""Rewards as verl calls them, against the libraries' own numbers."""

import json
import math

import jiwer
import numpy as np
import pytest
import sacrebleu
import sentencepiece
from hydra import compose, initialize_config_module
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from verl.trainer.ppo.metric_utils import process_validation_metrics
from verl.trainer.ppo.reward import get_custom_reward_fn

from verl_leaf.rewards import REWARDS, by_data_source, cer, mix, rouge_l, sentence_bleu, wer
from verl_leaf.rewards.check import check_reward
from verl_leaf.rewards.metrics import MAX_CHARACTERS, METRICS, measure, needed_tokenizer

REFERENCE = "zwei alte Hunde schlafen im Garten"
ANY = st.text(st.characters(codec=None), max_size=40)  # surrogates, NUL and all
WORDS = ["Der", "Hund", "der", "hund,", "Köter.", "3.5", "\u200f犬"]
FEW_WORDS = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
TEXT = ANY | st.lists(st.sampled_from([*WORDS, "\ud800"]), max_size=12).map(" ".join)


def score(answer, reference=REFERENCE):
    return sentence_bleu("test", answer, reference)["score"]


BLEU_4 = (5 / 6 * 3 / 5 * 1 / 4 * 1 / (2 * 3)) ** (1 / 4)  # no four words in common: half a match (Chen & Cherry, exp)


@pytest.mark.parametrize(
    "name, answer, references, expected",
    [
        ("sentence_bleu", "zwei alte Katzen schlafen im Garten", [REFERENCE], BLEU_4),
        (
            "sentence_bleu",
            "Zwei alte Hunde schlafen im Garten",
            [REFERENCE],
            (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** (1 / 4),
        ),
        ("sentence_bleu", "ein Hund", ["ein Hund"], 1),  # orders that an answer is too short for do not count
        ("sentence_bleu", "a b c d", ["a b c d e f"], math.exp(1 - 6 / 4)),
        ("sentence_bleu_uncased", "Zwei ALTE Katzen schlafen im garten", [REFERENCE], BLEU_4),
        # n-grams of one and two letters: precision 1, recall the mean of 2/3 and 1/2, of which recall counts twice
        ("chrf", "ab", ["abc"], 5 * 7 / 12 / (4 + 7 / 12)),
        ("chrf", "ab", ["xyz", "ab"], 1),
        ("wer", "zwei alte Katzen schlafen im Garten heute", [REFERENCE], 1 - 2 / 6),
        ("wer", "a b x d e f", ["a", "a b c d"], 1 - 3 / 4),
        ("wer", "a b c", ["a"], 0),
        ("cer", "abx", ["abcd"], 1 - 2 / 4),
        ("rouge_l", "a b x d e f", ["a b c d"], 2 * (3 / 6) * (3 / 4) / (3 / 6 + 3 / 4)),
        ("rouge_l", "Hund!", ["der hund"], 2 / 3),
        ("exact_match", "Ja", ["Doch", "Ja"], 1),
        ("exact_match", "ja", ["Ja"], 0),
        ("exact_match", "Ja.", ["Ja"], 0),
    ],
)
def test_values_computed_by_hand(name, answer, references, expected):
    assert REWARDS[name]("test", answer, references)["score"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "name, library",
    [
        ("sentence_bleu", lambda answer, references: sacrebleu.sentence_bleu(answer, references).score / 100),
        (
            "sentence_bleu_uncased",
            lambda answer, references: sacrebleu.sentence_bleu(answer, references, lowercase=True).score / 100,
        ),
        ("chrf", lambda answer, references: sacrebleu.sentence_chrf(answer, references).score / 100),
        ("wer", lambda answer, references: max(0, *(1 - jiwer.wer(reference, answer) for reference in references))),
        ("cer", lambda answer, references: max(0, *(1 - jiwer.cer(reference, answer) for reference in references))),
        (
            "rouge_l",
            lambda answer, references: RougeScorer(["rougeL"]).score_multi(references, answer)["rougeL"].fmeasure,
        ),
    ],
)
@given(answer=FEW_WORDS, references=st.lists(FEW_WORDS, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_equals_the_library_where_nothing_is_to_be_collapsed(name, library, answer, references):
    result = REWARDS[name]("test", answer, references)["score"]
    assert 0 <= result <= 1
    assert result == pytest.approx(library(answer, references), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
@given(answer=TEXT, references=st.lists(TEXT, min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_text_has_a_score(name, answer, references):
    assert 0 <= REWARDS[name]("test", answer, references)["score"] <= 1
    assert REWARDS["exact_match"]("test", answer, [*references, answer])["score"] == 1


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    "text, plain",
    [
        ("  zwei  alte\nHunde\t", "zwei alte Hunde"),
        ("zwei\0alte\0\0 Hunde\0", "zwei alte Hunde"),
        ("zwei\u3000alte\u2028Hunde\x85", "zwei alte Hunde"),
        ("zwei alte \ud800", "zwei alte ?"),
    ],
)
def test_white_space_nul_and_lone_surrogates(name, text, plain):
    for reference in ("zwei alte Hunde", "zwei alte ?", "zwei junge Hunde"):
        assert REWARDS[name]("test", text, reference) == REWARDS[name]("test", plain, reference)
        assert REWARDS[name]("test", reference, text) == REWARDS[name]("test", reference, plain)


def test_white_space_is_collapsed():
    answer = "  zwei  alte Katzen\nschlafen im Garten\t"
    assert score(answer) == sacrebleu.sentence_bleu("zwei alte Katzen schlafen im Garten", [REFERENCE]).score / 100
    assert 0 < score(answer) < 1


@pytest.mark.parametrize("name", METRICS)
def test_bounds_and_case(name):
    reward = REWARDS[name]
    assert reward("test", REFERENCE, REFERENCE)["score"] == pytest.approx(1)
    assert reward("test", "", REFERENCE)["score"] == 0
    assert (reward("test", REFERENCE.lower(), REFERENCE)["score"] < 1) == (
        name not in ("rouge_l", "sentence_bleu_uncased")
    )


@pytest.mark.parametrize("name", METRICS)
def test_the_best_of_several_references_counts(name):
    references = np.array(["x y z w", REFERENCE], dtype=object)  # as verl hands on a list column
    assert REWARDS[name]("test", REFERENCE, references)["score"] == pytest.approx(1)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("answer", ["", "ein Hund"])
@pytest.mark.parametrize("ground_truth", ["", " \n", ["", ""]])
def test_an_empty_reference_gives_a_number(name, answer, ground_truth):
    result = REWARDS[name]("test", answer, ground_truth)
    assert 0 <= result["score"] <= (answer == "")


def test_parts():
    answer, reference = "a b x d e f", "a b c d"
    assert wer("test", answer, reference) == {"score": 0.25, "data_source": "test", "wer": 0.75}
    assert wer("test", answer, "a")["wer"] == 5  # the raw rate may exceed 1
    assert cer("test", "abx", "abcd")["cer"] == 0.5
    rouge = rouge_l("test", answer, reference)
    assert rouge["rouge_l_precision"] == 3 / 6 and rouge["rouge_l_recall"] == 3 / 4
    bleu = sentence_bleu("test", "a b c d", "a b c d e f")
    assert bleu["sentence_bleu_brevity_penalty"] == pytest.approx(np.exp(1 - 6 / 4))
    assert bleu["sentence_bleu"] == bleu["score"]


def test_mix():
    answer = "zwei alte Katzen schlafen im Garten heute"
    result = mix("test", answer, REFERENCE, weights={"sentence_bleu": 0.7, "wer": 0.3})
    assert result["wer"] == pytest.approx(2 / 6)
    assert result["score"] == pytest.approx(0.7 * score(answer) + 0.3 * (1 - 2 / 6))


def configured(*overrides):
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", ["reward.custom_reward_function.path=pkg://verl_leaf.rewards", *overrides])
    return get_custom_reward_fn(config)


def test_each_data_source_has_its_own_reward_and_verl_reports_the_parts():
    reward = configured(
        "reward.custom_reward_function.name=by_data_source",
        "+reward.custom_reward_function.reward_kwargs.rewards={librisqa:rouge_l,covost2/zh:{sentence_bleu:0.7,chrf:0.3}}",
        "+reward.custom_reward_function.reward_kwargs.tokenize={librisqa:null,covost2/zh:zh}",
    )
    rows = [
        ("librisqa", "an old dog", "a dog"),
        ("covost2/zh", "狗在花园里睡觉", "老狗在花园里睡觉"),
        ("covost2/zh_swapped_audio", "猫", "老狗在花园里睡觉"),
    ]
    results = [
        reward(data_source=source, solution_str=answer, ground_truth=reference, extra_info={})
        for source, answer, reference in rows
    ]
    assert results[0]["score"] == rouge_l("", *rows[0][1:])["score"] > 0
    bleu = sacrebleu.sentence_bleu(rows[1][1], [rows[1][2]], tokenize="zh").score / 100
    chrf = sacrebleu.sentence_chrf(rows[1][1], [rows[1][2]]).score / 100
    assert results[1]["score"] == pytest.approx(0.7 * bleu + 0.3 * chrf)
    assert results[2]["data_source"] == rows[2][0] and results[2]["score"] == 0

    # The legacy trainer takes the keys of the first row and asks every row for them.
    infos = {key: np.array([result[key] for result in results]).tolist() for key in results[0]}
    assert all(result.keys() == results[0].keys() for result in results)
    json.dumps(infos, ensure_ascii=False)
    metrics = process_validation_metrics([row[0] for row in rows], ["0", "1", "2"], infos)
    assert metrics["librisqa"].keys() == {"score", "rouge_l", "rouge_l_precision", "rouge_l_recall"}
    assert metrics["covost2/zh"]["sentence_bleu"]["mean@1"] == pytest.approx(bleu)
    assert metrics["covost2/zh"].keys() == {"score", "sentence_bleu", "sentence_bleu_brevity_penalty", "chrf"}


def test_an_unknown_data_source_is_an_error_that_lists_the_known():
    with pytest.raises(
        ValueError, match="no entry for the data source 'voxpopuli'. It has entries for librisqa, covost2"
    ):
        by_data_source("voxpopuli", "a", "b", rewards={"librisqa": "rouge_l", "covost2": "chrf"})


def test_japanese_words():
    answer, reference = "犬が庭で寝ている", "老いた犬が庭で寝ている"
    result = sentence_bleu("test", answer, reference, tokenize="ja-mecab")["score"]
    assert result == sacrebleu.sentence_bleu(answer, [reference], tokenize="ja-mecab").score / 100
    assert result > score(answer, reference)
    assert (
        rouge_l("test", answer, reference)["score"] == 0 < rouge_l("", answer, reference, tokenize="ja-mecab")["score"]
    )
    assert wer("test", answer, reference)["wer"] == 1 > wer("test", answer, reference, tokenize="ja-mecab")["wer"]


@given(answer=TEXT, reference=TEXT)
@settings(max_examples=50, deadline=None)
def test_mecab_takes_any_string(answer, reference):
    assert 0 <= sentence_bleu("test", answer, reference, tokenize="ja-mecab")["score"] <= 1


def test_thai_needs_a_model_and_says_so(tmp_path, monkeypatch):
    """Without the model and without a network; then with a model where sacrebleu looks for it."""
    from sacrebleu.tokenizers import tokenizer_spm

    monkeypatch.setattr(tokenizer_spm, "SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setitem(tokenizer_spm.SPM_MODELS["flores200"], "url", f"file://{tmp_path}/none/model")
    with pytest.raises(ValueError, match="tokenize=flores200: .*could not fetch its model .* copy .* on every machine"):
        check_reward("sentence_bleu", {"tokenize": "flores200"}, {"test": ["สุนัข"]})

    thai = ["สุนัขแก่สองตัวนอนในสวน", "สุนัขสองตัวนอนในสวน"]
    with open(tmp_path / "models/model", "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(thai), model_writer=model, vocab_size=30, hard_vocab_limit=False, minloglevel=2
        )
    check_reward("sentence_bleu", {"tokenize": "flores200"}, {"test": ["สุนัข"]})
    assert 0 < sentence_bleu("test", thai[1], thai[0], tokenize="flores200")["score"] < 1


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    "text, beginning",
    [
        ("a " * 10**6, "a " * 2000),
        ("\0" * 10**6, ""),
        ("é" * 10**6, "é" * 4000),
        ("\ud800\u200f" * 10**5, "?\u200f" * 2000),
        ("犬" * 10**6, "犬" * 4000),
        ("-." * 10**6, "-." * 2000),
    ],
)
def test_of_enormous_strings_the_libraries_see_the_beginning(name, text, beginning):
    assert measure(name, text, [REFERENCE]) == measure(name, beginning, [REFERENCE])
    assert measure(name, REFERENCE, [text]) == measure(name, REFERENCE, [beginning])
    assert measure(name, text, [text]) == measure(name, beginning, [beginning])


@pytest.mark.parametrize(
    "references, needed",
    [
        (["Zwei alte Hunde", "犬"], None),
        (["개 두 마리"], None),
        (["老狗在花园里睡觉 (WTO)"], "zh"),
        (["老犬が庭で眠る"], "ja-mecab"),
        (["สุนัขแก่สองตัว"], "flores200"),
        (["", "7"], None),
    ],
)
def test_words_without_spaces_need_a_tokenizer(references, needed):
    assert needed_tokenizer(references) == needed
    for name, words in (("rouge_l", True), ("chrf", False)):
        if needed and words:
            with pytest.raises(ValueError, match=f"'test' have no spaces .* Set reward_kwargs.tokenize={needed}"):
                check_reward(name, {}, {"test": references})
        else:
            check_reward(name, {}, {"test": references})
        check_reward(name, {"tokenize": None}, {"test": references})


@pytest.mark.parametrize("ground_truth", [42, [42, "x"], np.array([42])])
def test_references_that_are_numbers(ground_truth):
    assert sentence_bleu("test", "42", ground_truth)["score"] == pytest.approx(1)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    "ground_truth", [None, {"role": "assistant", "content": "Ja"}, [], [["Ja"]], ["Ja", None], True, 42.0, b"Ja"]
)
def test_what_no_answer_can_be_compared_with_is_an_error_and_never_a_score(name, ground_truth):
    with pytest.raises(ValueError, match="the reference .* is not a text"):
        REWARDS[name]("test", "Ja", ground_truth)


def test_data_sources_named_by_numbers():
    """Hydra reads ``{7: chrf}`` as a number, verl hands on the column's."""
    for key in (7, "7"):
        for source in (7, "7", "7_swapped_audio"):
            assert by_data_source(source, "Ja", "Ja", rewards={key: "chrf"}, tokenize={key: None})["score"] == 1


def test_exact_match_sees_all_of_a_string():
    text = "a" * MAX_CHARACTERS
    assert measure("exact_match", text + "b", [text])[0] == measure("exact_match", text + "b", [text + "c"])[0] == 0
