"""The task: small English sentences, their German references, and plausible words to waver between.

A sentence fills five slots, "two old dogs sleep in the garden", and its translation fills the same five in the same
order: "zwei alte Hunde schlafen im Garten". Everything is plural, so nothing needs to agree in gender. Each English
word has a set of German words: first the reference, then the alternatives that a fluent but undecided model would use
as readily. The first alternative is the one it likes best, so guessing greedily does not help either.
"""

import math
import random

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
"""How often it uses the first alternative; the others share what is left."""

Sentence = tuple[str, ...]
"""The English words of a sentence, one a slot."""


def english(sentence: Sentence) -> str:
    """The sentence as it is spoken."""
    return " ".join(sentence)


def words(sentence: Sentence) -> list[tuple[str, ...]]:
    """The German words that each slot of the sentence may be put into, the reference first."""
    return [slot[word] for slot, word in zip(SLOTS.values(), sentence, strict=True)]


def reference(sentence: Sentence) -> str:
    """The one translation that is scored."""
    return " ".join(options[0] for options in words(sentence))


def undecided(sentence: Sentence, rng: random.Random) -> str:
    """A translation whose words are drawn afresh: right in every slot, the reference in few."""
    return " ".join(rng.choices(options, shares(options))[0] for options in words(sentence))


def shares(options: tuple[str, ...]) -> list[float]:
    """The probability of each of a slot's German words in an undecided translation."""
    if len(options) == 1:
        return [1.0]
    rest = 1.0 - REFERENCE_SHARE - FAVOURITE_SHARE
    return [REFERENCE_SHARE, FAVOURITE_SHARE, *[rest / (len(options) - 2)] * (len(options) - 2)]


def heard(sentence: Sentence, answer: str) -> list[bool]:
    """For each slot, whether the answer holds there a word of the right set, whichever it is."""
    parts = answer.split(maxsplit=len(SLOTS) - 1)
    parts += [""] * (len(SLOTS) - len(parts))
    return [part in options for part, options in zip(parts, words(sentence), strict=True)]


def draw(count: int, rng: random.Random) -> list[Sentence]:
    """Distinct sentences in random order.

    Raises:
        ValueError: the slots do not make that many sentences.
    """
    sizes = [len(slot) for slot in SLOTS.values()]
    if count > math.prod(sizes):
        raise ValueError(f"{count} sentences asked for, the slots make {math.prod(sizes)}")
    sentences = []
    for index in rng.sample(range(math.prod(sizes)), count):
        sentence = []
        for slot in SLOTS.values():
            index, word = divmod(index, len(slot))
            sentence.append(list(slot)[word])
        sentences.append(tuple(sentence))
    return sentences
