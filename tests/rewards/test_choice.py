"""Choices that replies name, against a table of replies that says what each names and what format it has."""

import json
from pathlib import Path

from verl_leaf.rewards.choice import has_format, letter_of, named_choice

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
