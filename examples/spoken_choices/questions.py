"""The task: a spoken sentence, a question about one of its words, and four words of its slot to choose from."""

import random

from examples.spoken_german import phrases
from verl_leaf.prepare.audioqa import ordered
from verl_leaf.prepare.convert import fill

NAME = "spoken_choices"
PROMPT = (
    "<audio>\n{question}\n{choices}\n"
    "Write what you hear between <think> and </think>, then the right choice between <answer> and </answer>."
)
QUESTIONS = {
    "adjective": "What are they like?",
    "noun": "Who are they?",
    "verb": "What do they do?",
    "place": "Where are they?",
}
RIGHT_SHARE = 0.4
"""How often an undecided answer is the right choice, whatever the audio; the other choices share the rest equally."""


def row(sentence: phrases.Sentence) -> dict:
    """Return a table row for `verl-leaf prepare audioqa`, without audio and split; the sentence is its id."""
    rng = random.Random(phrases.english(sentence))
    slot = rng.choice(list(QUESTIONS))
    answer = dict(zip(phrases.SLOTS, sentence, strict=True))[slot]
    others = rng.sample([word for word in phrases.SLOTS[slot] if word != answer], 3)
    return {
        "id": phrases.english(sentence),
        "question": QUESTIONS[slot],
        "choices": [answer, *others],
        "answer": answer,
        "category": slot,
    }


def exercises(sentence: phrases.Sentence) -> dict[str, phrases.Exercise]:
    """Return the warm start's exercise about a sentence: the prompt that `verl-leaf prepare audioqa` makes of its row."""
    asked = row(sentence)
    answer, *others = asked["choices"]
    prompt = fill(PROMPT, asked["question"], ordered(asked["choices"], asked["id"]))
    shares = {answer: RIGHT_SHARE} | dict.fromkeys(others, (1 - RIGHT_SHARE) / len(others))
    heard = {f"<think>{phrases.english(sentence)}</think>": 1.0}
    named = {f"<answer>{word}</answer>": share for word, share in shares.items()}
    return {NAME: phrases.Exercise("audio-question-answering", prompt.removeprefix("<audio>"), (heard, named))}


def texts() -> list[str]:
    """Return pieces of all answers, for the tokenizer."""
    answers = [f"</think> <answer>{word}</answer>" for slot in QUESTIONS for word in phrases.SLOTS[slot]]
    first, *others = ([*slot] for slot in phrases.SLOTS.values())
    return [*answers, *(f"<think>{word}" for word in first), *(f" {word}" for slot in others for word in slot)]


def instructions() -> list[str]:
    """Return the texts of prompts, for the tokenizer."""
    words = [f"\n{letter}) {word}" for letter in "ABCD" for slot in QUESTIONS for word in phrases.SLOTS[slot]]
    return [PROMPT.split("{choices}")[1], *QUESTIONS.values(), *words]
