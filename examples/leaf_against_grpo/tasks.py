"""The study's two tasks on the sentences of `spoken_german`: translating them, and answering a question about them.

Every word has wordings that a fluent but undecided model uses equally often. The reference has the first of them; only of
a verb's, the first where animals are meant and the second where people are, as animals *saufen* and people *trinken*.
"""

import itertools
import random

from examples.spoken_german import phrases

ANIMALS = frozenset({"dogs", "horses", "birds"})

GERMAN: dict[str, dict[str, tuple[str, ...]]] = {
    "number": {
        "two": ("zwei",),
        "three": ("drei",),
        "five": ("fünf",),
        "ten": ("zehn",),
    },
    "adjective": {
        "old": ("alte", "betagte", "bejahrte", "ergraute"),
        "little": ("winzige", "kleine", "zierliche", "klitzekleine"),
        "tired": ("matte", "müde", "schläfrige", "erschöpfte"),
        "happy": ("vergnügte", "frohe", "heitere", "fröhliche"),
        "hungry": ("gierige", "hungrige", "ausgehungerte", "hungernde"),
        "brave": ("kühne", "mutige", "tapfere", "beherzte"),
    },
    "noun": {
        "dogs": ("Vierbeiner", "Hunde", "Köter", "Kläffer"),
        "children": ("Kinder", "Knirpse", "Gören", "Kindlein"),
        "farmers": ("Bauern", "Landwirte", "Bauersleute", "Ackerbauern"),
        "horses": ("Rösser", "Pferde", "Pferdchen", "Gäule"),
        "birds": ("Vöglein", "Vögel", "Piepmätze", "Federtiere"),
        "women": ("Frauen", "Damen", "Weiber", "Frauenzimmer"),
    },
    "verb": {
        "sleep": ("dösen", "schlummern", "schlafen", "ruhen aus"),
        "play": ("toben", "spielen", "spaßen", "tollen umher"),
        "sing": ("trällern", "musizieren", "singen", "jubilieren"),
        "wait": ("lauern", "warten", "verharren", "harren aus"),
        "work": ("rackern", "schaffen", "schuften", "werkeln"),
        "dance": ("hüpfen", "tanzen", "tänzeln", "wirbeln umher"),
    },
    "place": {
        "in the garden": ("im Grünen", "im Garten", "im Vorgarten", "auf dem Rasen"),
        "by the river": ("am Wasser", "am Fluss", "am Flüsschen", "am Ufer"),
        "in the kitchen": ("bei dem Herd", "in der Kochstube", "in der Küche", "in der Wohnküche"),
        "under the tree": ("unter den Zweigen", "unter dem Baum", "unter der Krone", "unterm Baum"),
        "on the roof": ("auf den Ziegeln", "auf dem First", "auf dem Dach", "auf dem Giebel"),
        "behind the barn": ("hinter dem Schuppen", "hinter der Scheune", "hinter der Scheuer", "hinter dem Heuschober"),
    },
}

ENGLISH: dict[str, dict[str, tuple[str, ...]]] = {
    "number": {number: (number,) for number in GERMAN["number"]},
    "adjective": {
        "old": ("aged", "elderly", "old", "ageing"),
        "little": ("tiny", "small", "little", "petite"),
        "tired": ("weary", "sleepy", "tired", "worn out"),
        "happy": ("merry", "cheerful", "happy", "glad"),
        "hungry": ("starving", "hungry", "famished", "ravenous"),
        "brave": ("fearless", "bold", "brave", "valiant"),
    },
    "noun": {
        "dogs": ("hounds", "dogs", "canines", "mutts"),
        "children": ("children", "youngsters", "kids", "little ones"),
        "farmers": ("farmers", "growers", "peasants", "country folk"),
        "horses": ("steeds", "horses", "ponies", "mares"),
        "birds": ("songbirds", "birds", "fowl", "winged friends"),
        "women": ("women", "ladies", "females", "womenfolk"),
    },
    "verb": {
        "sleep": ("doze", "take naps", "sleep", "slumber"),
        "play": ("romp", "have fun", "play", "frolic"),
        "sing": ("chant", "make music", "sing", "croon"),
        "wait": ("linger", "wait", "stand by", "hold on"),
        "work": ("toil", "keep busy", "work", "labour"),
        "dance": ("prance", "dance", "twirl", "jig"),
    },
    "place": {
        "in the garden": ("on the lawn", "in the garden", "in the yard", "among the flowers"),
        "by the river": ("by the water", "on the bank", "by the river", "along the stream"),
        "in the kitchen": ("by the stove", "in the kitchen", "near the oven", "near the sink"),
        "under the tree": ("in the shade", "under the tree", "under the branches", "beneath the leaves"),
        "on the roof": ("on the tiles", "above the attic", "on the roof", "on the shingles"),
        "behind the barn": ("behind the shed", "behind the barn", "beyond the stable", "past the haystack"),
    },
}

QUESTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Who is there?": (("There are", "I can hear", "I can spot", "It must be"), ("number", "adjective", "noun")),
    "What do they do?": (("These", "Those", "All the", "Here the"), ("adjective", "noun", "verb")),
    "Where are they?": (("You find", "You meet", "Look for", "We hear"), ("number", "noun", "place")),
}
"""For each question the wordings that its answer may open with, and the slots that follow."""


def exercises(sentence: phrases.Sentence) -> dict[str, phrases.Exercise]:
    """What is asked about the sentence in each task. One of the questions is its own, drawn once and for all."""
    heard = dict(zip(phrases.SLOTS, sentence, strict=True))
    question = random.Random(phrases.english(sentence)).choice(list(QUESTIONS))
    opening, slots = QUESTIONS[question]

    def options(slot: str, language: dict[str, dict[str, tuple[str, ...]]]) -> dict[str, float]:
        wordings = language[slot][heard[slot]]
        if slot == "verb" and heard["noun"] not in ANIMALS:
            wordings = (*wordings[1:], wordings[0])
        return _equally(wordings)

    german = tuple(options(slot, GERMAN) for slot in heard)
    english = (_equally(opening), *(options(slot, ENGLISH) for slot in slots))
    return {
        "translation": phrases.Exercise("speech-translation", phrases.INSTRUCTION, german),
        "answering": phrases.Exercise("spoken-question-answering", question, english),
    }


def _equally(wordings: tuple[str, ...]) -> dict[str, float]:
    return dict.fromkeys(wordings, 1 / len(wordings))


def texts() -> list[str]:
    """All wordings as they stand in an answer: with a space before them unless they open it."""
    slots = [*GERMAN.values(), *ENGLISH.values()]
    first = [*GERMAN["number"].values(), *(opening for opening, _ in QUESTIONS.values())]
    later = itertools.chain.from_iterable(wordings for slot in slots for wordings in slot.values())
    return [*itertools.chain(*first), *(f" {wording}" for wording in later)]
