"""VoiceBench's definitions, on replies and values worked out by hand."""

import json

import pytest

from verl_leaf.common.answers import Answer
from verl_leaf.evaluate.voicebench import score
from verl_leaf.evaluate.voicebench.instructions import CHECKS, follows, variants
from verl_leaf.evaluate.voicebench.replies import choice, refuses, says_yes

CHOICES = {
    "B": "B",
    "b.": "B",
    "(C) because it rains": "C",
    "The answer is **D**.": "D",
    "The correct answer is: \n\n**A) a scorpion**": "A",
    "the answer is a scorpion": None,
    "I would choose option B, not C.": "B",
    r"So it is \( \boxed{\text{C}} \)": "C",
    "<1>  A, of course": "A",
    "答案是B": "B",
    "Option A is wrong and option B is wrong.": None,
    "It was a dark night": None,
    "": None,
    "Class begins at 9 a.m. today": None,
    "The correct adjective order is in the second option": "B",
    "The most fitting answer to the question is probably option (d), the moon.": "D",
}


@pytest.mark.parametrize("text", CHOICES)
def test_choices(text):
    assert choice(text) == CHOICES[text]


CONCLUSIONS = {
    "Yes.": True,
    "No, you would not.": False,
    "Let us see. You turn left. The answer is no.": False,
    "First I thought that the answer is yes, but the answer is no": False,
    "You do not return to the starting point.": False,
    "You end up back where you started!": True,
    "You haven't moved back to the starting point": False,
    "The sentence is plausible.": True,
    "That is not a plausible sentence": False,
    "It is implausible": False,
    "Therefore, Delfina tells the truth": True,
    "Delfina does not tell the truth": False,
    "So Osvaldo lies": False,
    "I did not hear you.": None,
    "": None,
}


@pytest.mark.parametrize("text", CONCLUSIONS)
def test_conclusions(text):
    assert says_yes(text) is CONCLUSIONS[text]


@pytest.mark.parametrize(
    "text", ["", " \n", "I'm sorry, but no.", "I can’t do that.", "That is ILLEGAL!", "It has an end"]
)
def test_refusals(text):
    assert refuses(text)


@pytest.mark.parametrize("text", ["Sure, here is how.", "First, take a knife.", "An answer"])
def test_help(text):
    assert not refuses(text)


INSTRUCTIONS = [
    ("keywords:existence", {"keywords": ["Sun", "moon"]}, "sun and MOON", "sun"),
    ("keywords:frequency", {"keyword": "sun", "frequency": 2, "relation": "at least"}, "Sun sun", "sun"),
    ("keywords:frequency", {"keyword": "sun", "frequency": 2, "relation": "less than"}, "sun", "sunsun"),
    ("keywords:existence", {"keywords": ["f("]}, "f(x)", "f"),  # no regular expression
    ("keywords:forbidden_words", {"forbidden_words": ["sun"]}, "sunny", "The Sun!"),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, "Ee", "e"),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "Dr. No came. He left.",
        "Dr. No came.",
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "it is", "it's it"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a *** b", "a *** *** b"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "So"},
        'a\n\n"so, yes',
        "so\n\na",
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi\np. s. ho", "ps"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b c]", "[a"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n** b"),
    ("detectable_format:constrained_response", {}, "Well. My answer is no.", "My answer is no"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1 x Part 2",
        "Part 1 Part",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a}"),
    ("detectable_format:title", {}, "<<A title>> b", "<< >>"),
    ("combination:two_responses", {}, "a ****** b", "a ****** a"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Do it."}, "do it. Done", "Done"),
    ("startend:end_checker", {"end_phrase": "The end."}, 'So. "the end."', "The end. Or not"),
    ("startend:quotation", {}, ' "a" ', '"a'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "GO ON", "GO on"),
    ("change_case:english_capital", {}, "GO ON, 3!", "GO on"),
    ("change_case:english_lowercase", {}, "hold on", "Hold on"),
    ("punctuation:no_comma", {}, "a; b", "a, b"),
]


@pytest.mark.parametrize("instruction, wanted, good, bad", INSTRUCTIONS)
def test_instructions(instruction, wanted, good, bad):
    nothing = dict.fromkeys(
        ("keywords", "num_words", "relation", "letter")
    )  # the data set has all keys in every record
    assert follows(good, instruction, nothing | wanted) is True
    assert follows(bad, instruction, nothing | wanted) is False
    assert follows("  ", instruction, wanted) is False


def test_every_check_has_a_case():
    assert {instruction for instruction, *_ in INSTRUCTIONS} == set(CHECKS)


def test_what_is_not_checked():
    assert follows("a", "language:response_language", {"language": "de"}) is None
    assert follows("a", "keywords:frequency", {"keyword": "a", "frequency": None}) is None


def test_variants():
    assert variants("a\n*b*\nc") == ["a\n*b*\nc", "a\nb\nc", "*b*\nc", "b\nc", "a\n*b*", "a\nb", "*b*", "b"]


def ifeval(row: int, text: str, *instructions) -> Answer:
    names, kwargs = zip(*instructions, strict=True)
    record = json.dumps({"key": row, "instruction_id_list": names, "kwargs": kwargs})
    return Answer(row, 0, "voicebench/ifeval/test", "", (record,), (), text)


def test_the_four_accuracies_of_ifeval():
    comma, quoted = ("punctuation:no_comma", {}), ("startend:quotation", {})
    german = ("language:response_language", {"language": "de"})
    (result,) = score(
        [
            ifeval(0, '"a"', comma, quoted),  # both
            ifeval(1, 'Sure, here:\n"a"', comma, quoted),  # neither; without its first line both
            ifeval(2, "a, b", comma),  # neither way
            ifeval(3, "a", german, comma),  # the one that is checked
            ifeval(4, "a", german),  # nothing to check
        ]
    )
    assert result.details == pytest.approx(
        {
            "strict_prompts": 50,
            "strict_instructions": 50,
            "loose_prompts": 75,
            "loose_instructions": 500 / 6,
        }
    )
    assert result.unread == 2
    assert result.score == pytest.approx((50 + 50 + 75 + 500 / 6) / 4)
    assert result.values[4] is None and result.values[2] == 0


def test_a_choice_that_cannot_be_read_is_worth_a_guess():
    texts = ["The answer is B.", "The answer is C.", "Hm."]
    rows = [Answer(row, 0, "voicebench/mmsu/law", "", ("B",), (), text) for row, text in enumerate(texts)]
    (result,) = score(rows)
    assert result.values == (100, 0, 25) and result.score == pytest.approx(125 / 3)
    yes = [Answer(row, 0, "voicebench/bbh/test", "", ("Yes",), (), text) for row, text in enumerate(["yes", "Hm."])]
    assert score(yes)[0].values == (100, 50)


def test_the_subset_is_scored_by_source_and_others_are_passed_over():
    sources = ["voicebench/mmsu/law", "voicebench/mmsu/physics", "voicebench/wildvoice/test", "librisqa"]
    rows = [Answer(row, 0, source, "", ("B",), (), "B") for row, source in enumerate(sources)]
    assert [(each.data_source, each.score) for each in score(rows)] == [(source, 100) for source in sources[:2]]


@pytest.mark.parametrize("source, reference", [("mmsu/law", "E"), ("bbh/test", "maybe"), ("ifeval/test", "{}")])
def test_references_that_are_none(source, reference):
    with pytest.raises(ValueError, match=f"row 3 of voicebench/{source}: the reference"):
        score([Answer(3, 0, f"voicebench/{source}", "", (reference,), (), "B")])
