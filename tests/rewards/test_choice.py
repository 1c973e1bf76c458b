"""Choices that replies name, against a table of replies that says what each names and what format it has."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_leaf.data.choices import letter_of, right_choice
from verl_leaf.rewards import by_data_source, choice, choice_format
from verl_leaf.rewards.check import check_reward, check_row
from verl_leaf.rewards.choice import has_format, named_choice

CHOICES = {
    "animals": ("dog", "cat", "bird", "horse"),
    "people": ("Man", "Woman", "Child", "Robot"),
    "sounds": ("dog", "dog barking", "A child", "A man's voice"),
    "yes": ("Yes", "No"),
    "numbers": ("3", "13", "3.5", "Two"),
    "notes": ("G", "A", "C# minor", "B flat"),
    "weather": ("It is raining", "It is not raining", "Rain, and people talk", "Snow"),
    "chinese": ("狗", "猫", "鸟", "狗叫"),
    "german": ("Hund", "Katze", "Vögel", "kein Hund"),
    "russian": ("собака", "кошка", "птица", "лошадь"),
    "thai": ("หมา", "แมว", "นก", "ม้า"),
    "arabic": ("كلب", "قطة", "طائر", "حصان"),
    "ten": ("piano", "violin", "flute", "harp", "drum", "horn", "oboe", "lute", "bell", "gong"),
}
REPLIES = [json.loads(line) for line in Path(__file__).with_name("choice_replies.jsonl").read_text().splitlines()]


def test_the_table_of_replies():
    wrong = []
    for choices, reply, names, form in REPLIES:
        named = named_choice(reply, CHOICES[choices])
        read = None if named is None else letter_of(named)
        formats = [has_format(reply, thinking) for thinking in (False, True)]
        if read != names or formats != [form == "answer", form == "think"]:
            wrong.append((choices, reply, read, formats))
    assert len(REPLIES) >= 200 and not wrong


def test_the_choices_of_the_table_can_be_told_apart():
    for choices in CHOICES.values():
        for number, text in enumerate(choices):
            assert (
                right_choice([letter_of(number), text], choices)
                == right_choice([text, letter_of(number)], choices)
                == number
            )


@pytest.mark.parametrize(
    "references, choices, says",
    [
        (["cow"], CHOICES["animals"], "names none of the choices"),
        (["A", "cat"], CHOICES["animals"], "names none of the choices"),
        (["A"], CHOICES["notes"], "names none of the choices"),  # the letter of one and the text of another
        (["A"], ["dog"], "there are 1 choices. There must be 2 to 26"),
        (["A"], ["dog"] * 27, "there are 27 choices"),
        (["A"], ["dog", "cat", " Dog. "], "equal to another one"),
        (["A"], ["dog", "..."], "the choice '...' is empty"),
    ],
)
def test_rows_without_one_right_choice(references, choices, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        right_choice(references, choices)


@given(reply=st.text(st.characters(codec=None), max_size=60), number=st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_and_the_answer_tag_decides(reply, number):
    choices = CHOICES["animals"]
    assert named_choice(reply, choices) in (None, 0, 1, 2, 3)
    if not any(tag in reply for tag in ("answer>", "think>")):
        assert named_choice(f"{reply}<answer>{letter_of(number)}</answer>{reply}", choices) == number
        assert has_format(f"<think>{reply}</think><answer>A</answer>", thinking=True) == bool(reply.strip())


PIECES = [
    "<answer>",
    "</answer>",
    "<answer>B</answer>",
    "<think>",
    "</think>",
    "a ",
    "A ",
    "(B",
    "B not ",
    "n't",
    "dog ",
    "answer: ",
    "不",
]


@pytest.mark.parametrize("piece", [*PIECES, "!", "-", "\ud800", "\u0301\u0316", "w" * 79 + " ", "a a a a b "])
def test_the_time_for_a_reply_grows_with_its_length_and_no_faster(piece):
    """A pattern that takes a square of the length would take minutes here."""
    text = (piece * 100_000)[:100_000]
    began = time.process_time()
    for reply in (text, f"{text}B", f"B{text}", f"<answer>{text}</answer>"):
        named_choice(reply, ("dog", "dog barking", "a a a a a a a a a c"))
        has_format(reply, thinking=True)
    assert time.process_time() - began < 10


INFO = {"choices": np.array(["dog", "cat"], dtype=object)}  # as verl hands on a list column


def test_rewards():
    assert choice("s", "<answer>B</answer>", ["B", "cat"], INFO) == {
        "score": 1.0,
        "data_source": "s",
        "choice": 1.0,
        "choice_unread": 0.0,
    }
    assert choice("s", "A or B", "cat", INFO)["choice_unread"] == 1
    assert choice_format("s", "<answer>B</answer>", "B", INFO)["score"] == 1
    assert choice_format("s", "B", "B", INFO, weight=0.2)["score"] == pytest.approx(0.8)
    assert choice_format("s", "<answer>A</answer>", "B", INFO, weight=0.2)["score"] == pytest.approx(0.2)
    thought = "<think>miaow</think><answer>B</answer>"
    assert [choice_format("s", thought, "B", INFO, thinking=each)["score"] for each in (True, False)] == [1, 0.5]
    mixed = {"aqa": {"choice": 0.8, "answer_format": 0.2}, "ast": "chrf"}
    for source, answer, info in (("aqa", "B", INFO), ("ast_swapped_audio", "cat", None)):
        result = by_data_source(source, answer, "cat", info, rewards=mixed)
        assert result["score"] == pytest.approx(0.8 if source == "aqa" else 1)
        assert result.keys() == {"score", "data_source", "choice", "choice_unread", "answer_format", "chrf"}


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("choice_format", {"weight": 1}, "weight=1: set it to a number above 0 and below 1"),
        ("choice_format", {"weight": True}, "weight=True"),
        ("choice_format", {"thinking": "yes"}, "thinking=yes: set it to true or false"),
        ("choice_format", {"weights": {"choice": 1}}, "has no option weights. Its options are weight, thinking"),
        ("mix", {"weights": {"choise": 1}}, "there is no metric choise. Choose from sentence_bleu"),
    ],
)
def test_options_that_are_refused(name, options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        check_reward(name, options, {})


def test_rows_that_a_reward_of_choices_cannot_score_are_found_before_a_run():
    check_row("choice", {}, "s", ["B", "cat"], INFO)
    check_row("sentence_bleu", {}, "s", ["x"], None)
    check_row("by_data_source", {"rewards": {"s": "chrf", "t": "choice"}}, "s", ["x"], None)
    for name, options in (
        ("choice_format", {}),
        ("mix", {"weights": {"choice": 1}}),
        ("by_data_source", {"rewards": {"s": "choice"}}),
    ):
        with pytest.raises(ValueError, match="has no extra_info.choices"):
            check_row(name, options, "s", ["B"], {"index": 0})
        with pytest.raises(ValueError, match="names none of the choices"):
            check_row(name, options, "s", ["C"], INFO)
    with pytest.raises(ValueError, match="extra_info.choices is"):
        check_row("choice", {}, "s", ["B"], {"choices": [1, 2]})
