"""Questions to the language model about what it hears, and the right answers."""

import random

from examples.real_speech.sentences import words

REPEAT = ("Repeat what you hear.", "Write down what is said.", "What is said?", "Transcribe the recording.")
COUNT = "How many words do you hear?"
FIRST, LAST = "What is the first word?", "What is the last word?"
PAST = "Put what you hear into the past tense."
ANSWER = "Answer the question that you hear."
REPEAT_SHARE = 0.8

PEOPLE = [
    "baker",
    "doctor",
    "farmer",
    "teacher",
    "king",
    "sister",
    "brother",
    "singer",
    "driver",
    "pilot",
    "child",
    "neighbour",
    "painter",
    "sailor",
]
ADJECTIVES = ["old", "young", "quiet", "happy", "tall", "tired", "clever", "little", "angry", "friendly"]
PLACES = [
    "river",
    "house",
    "bridge",
    "market",
    "school",
    "garden",
    "window",
    "lake",
    "station",
    "forest",
    "church",
    "table",
]
VERBS = {
    "runs": "ran",
    "sleeps": "slept",
    "sings": "sang",
    "writes": "wrote",
    "swims": "swam",
    "falls": "fell",
    "eats": "ate",
    "drinks": "drank",
    "sits": "sat",
    "stands": "stood",
    "speaks": "spoke",
    "waits": "waited",
    "works": "worked",
    "dances": "danced",
    "reads": "read",
    "laughs": "laughed",
}
OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "up": "down",
    "open": "closed",
    "early": "late",
    "happy": "sad",
    "fast": "slow",
    "hard": "soft",
    "full": "empty",
    "rich": "poor",
    "wet": "dry",
    "young": "old",
    "strong": "weak",
    "long": "short",
    "high": "low",
    "good": "bad",
    "loud": "quiet",
    "clean": "dirty",
    "left": "right",
}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def composed(count: int, seed: int = 0) -> dict[str, tuple[str, str]]:
    """Return ``count`` sentences and questions to be spoken, each with an instruction and the answer."""
    questions = [
        (f"What is the opposite of {word}?", other) for pair in OPPOSITES.items() for word, other in (pair, pair[::-1])
    ]
    questions += [(f"Which day comes after {day}?", DAYS[(i + 1) % 7].lower()) for i, day in enumerate(DAYS)]
    questions += [
        (f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", NUMBERS[a + b]) for a in range(1, 7) for b in range(1, 7)
    ]
    made, rng = {text: (ANSWER, answer) for text, answer in questions}, random.Random(seed)
    while len(made) < count:
        verb = rng.choice(list(VERBS))
        sentence = f"The {rng.choice(ADJECTIVES)} {rng.choice(PEOPLE)} {verb} near the {rng.choice(PLACES)}."
        made[sentence] = PAST, " ".join(words(sentence.replace(f" {verb} ", f" {VERBS[verb]} ")))
    return made


def exercise(text: str, tasks: dict[str, tuple[str, str]], rng: random.Random) -> tuple[str, str]:
    """Return an instruction about a spoken sentence and its answer; ``tasks``: what :func:`composed` returns."""
    said = words(text)
    if text in tasks and rng.random() < 0.5:
        return tasks[text]
    if rng.random() < REPEAT_SHARE:
        return rng.choice(REPEAT), " ".join(said)
    return rng.choice([(COUNT, str(len(said))), (FIRST, said[0]), (LAST, said[-1])])
