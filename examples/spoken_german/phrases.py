"""The task: small English sentences, their German references, and plausible alternatives for the German words.

A sentence fills five slots, "two old dogs sleep in the garden", and its translation fills the same five in the same
order: "zwei alte Hunde schlafen im Garten". Everything is plural, so nothing needs to agree in gender. Each English
word has a set of German words: first the reference, then the alternatives that a fluent but undecided model would use
as readily. The first alternative is the most likely one, so greedy decoding does not help either.
"""

import math
import random
from dataclasses import dataclass

NAME = "spoken_german"
INSTRUCTION = "Translate into German."

SLOTS: dict[str, dict[str, tuple[str, ...]]] = {
    "number": {
        "two": ("zwei",),
        "three": ("drei",),
        "five": ("fünf",),
        "ten": ("zehn",),
    },
    "adjective": {
        "old": ("alte", "betagte", "altgediente"),
        "little": ("kleine", "winzige", "klitzekleine"),
        "tired": ("müde", "schläfrige", "matte"),
        "happy": ("frohe", "heitere", "frohgemute"),
        "hungry": ("hungrige", "gierige", "hungernde"),
        "brave": ("mutige", "tapfere", "kühne"),
    },
    "noun": {
        "dogs": ("Hunde", "Köter", "Vierbeiner"),
        "children": ("Kinder", "Gören", "Kindlein"),
        "farmers": ("Bauern", "Landwirte", "Bauersleute"),
        "horses": ("Pferde", "Rösser", "Pferdchen"),
        "birds": ("Vögel", "Piepmätze", "Vöglein"),
        "women": ("Frauen", "Damen", "Weiber"),
    },
    "verb": {
        "sleep": ("schlafen", "schlummern", "dösen"),
        "play": ("spielen", "toben", "spaßen"),
        "sing": ("singen", "trällern", "musizieren"),
        "wait": ("warten", "harren", "ausharren"),
        "work": ("arbeiten", "schuften", "werkeln"),
        "dance": ("tanzen", "hüpfen", "tänzeln"),
    },
    "place": {
        "in the garden": ("im Garten", "im Grünen", "im Vorgarten"),
        "by the river": ("am Fluss", "am Ufer", "am Flüsschen"),
        "in the kitchen": ("in der Küche", "in der Kochstube", "in der Wohnküche"),
        "under the tree": ("unter dem Baum", "unter den Zweigen", "unterm Baum"),
        "on the roof": ("auf dem Dach", "auf dem First", "auf den Dachziegeln"),
        "behind the barn": ("hinter der Scheune", "hinter dem Schuppen", "hinter der Scheuer"),
    },
}

REFERENCE_SHARE = 0.3
"""How often an undecided transcript uses the reference of a slot that has alternatives."""
FAVOURITE_SHARE = 0.4
"""How often an undecided transcript uses the first alternative; the others share the rest."""

Sentence = tuple[str, ...]
"""The English words of a sentence, one per slot."""


def english(sentence: Sentence) -> str:
    """Return the sentence as it is spoken."""
    return " ".join(sentence)


@dataclass(frozen=True)
class Exercise:
    """An instruction about a sentence, and the answers to it, each a sequence of decisions between wordings."""

    ability: str
    """verl's name for the kind of task."""
    instruction: str
    options: tuple[dict[str, float], ...]
    """The wordings of each decision, the reference first, with their probabilities in an undecided answer."""

    @property
    def reference(self) -> str:
        """The reference: the only answer that gets the full score."""
        return " ".join(next(iter(option)) for option in self.options)

    def undecided(self, rng: random.Random) -> str:
        """Return an answer with random wordings: acceptable in every decision, the reference in few."""
        return " ".join(rng.choices(list(option), list(option.values()))[0] for option in self.options)

    def heard(self, answer: str) -> list[str | None]:
        """Return, for each decision, the acceptable wording that the answer contains there, or None for a wrong word."""
        rest, heard = answer.split(), []
        for option in self.options:
            wording = next((wording for wording in option if rest[: len(wording.split())] == wording.split()), None)
            rest = rest[len(wording.split()) if wording else 1 :]
            heard.append(wording)
        return [*heard[:-1], None] if rest else heard


def exercises(sentence: Sentence) -> dict[str, Exercise]:
    """Return this task's only exercise, by the name of the data source: to translate the sentence."""
    words = [slot[word] for slot, word in zip(SLOTS.values(), sentence, strict=True)]
    options = tuple(dict(zip(wordings, shares(wordings), strict=True)) for wordings in words)
    return {NAME: Exercise("speech-translation", INSTRUCTION, options)}


def shares(wordings: tuple[str, ...]) -> list[float]:
    """Return the probability of each of a slot's German words in an undecided translation."""
    if len(wordings) == 1:
        return [1.0]
    rest = 1.0 - REFERENCE_SHARE - FAVOURITE_SHARE
    return [REFERENCE_SHARE, FAVOURITE_SHARE, *[rest / (len(wordings) - 2)] * (len(wordings) - 2)]


def draw(count: int, rng: random.Random) -> list[Sentence]:
    """Return distinct sentences in random order.

    Raises:
        ValueError: the slots do not yield that many sentences.
    """
    sizes = [len(slot) for slot in SLOTS.values()]
    if count > math.prod(sizes):
        raise ValueError(f"there are no {count} distinct sentences. Ask for at most {math.prod(sizes)}")
    sentences = []
    for index in rng.sample(range(math.prod(sizes)), count):
        sentence = []
        for slot in SLOTS.values():
            index, word = divmod(index, len(slot))
            sentence.append(list(slot)[word])
        sentences.append(tuple(sentence))
    return sentences
