"""The study's three tasks on the sentences of `spoken_german`: they teach similar things in different places.

Each answer takes four decisions between four wordings, of which the undecided model says the right one a quarter of the
time. They are independent and close together in `translation`; the first settles the others in `register`; they are
independent and far apart in `report`.
"""

import itertools
import random
from dataclasses import dataclass

from examples.spoken_german import phrases

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

OPENINGS = ("We notice", "One observes", "Lo behold", "Check out")
"""The beginnings of an answer in plain, formal, poetic and rough English."""
REGISTERS: dict[str, dict[str, tuple[str, ...]]] = {
    "noun": {
        "dogs": ("dogs", "canines", "hounds", "mutts"),
        "children": ("children", "minors", "cherubs", "brats"),
        "farmers": ("farmers", "cultivators", "ploughmen", "hayseeds"),
        "horses": ("horses", "equines", "steeds", "nags"),
        "birds": ("birds", "avians", "songsters", "chirpers"),
        "women": ("women", "ladies", "maidens", "gals"),
    },
    "verb": {
        "sleep": ("sleeping", "reposing", "slumbering", "snoozing"),
        "play": ("playing", "recreating", "frolicking", "horsing around"),
        "sing": ("singing", "vocalising", "carolling", "belting"),
        "wait": ("waiting", "remaining", "tarrying", "hanging about"),
        "work": ("working", "labouring", "toiling", "slogging"),
        "dance": ("dancing", "performing", "twirling", "boogieing"),
    },
    "place": {
        "in the garden": ("in the garden", "upon the premises", "amid the blossoms", "out back"),
        "by the river": ("by the river", "alongside the waterway", "beside the brook", "at the creek"),
        "in the kitchen": ("in the kitchen", "within the galley", "beside the hearth", "where the grub is"),
        "under the tree": ("under the tree", "below the canopy", "beneath the bough", "in some shade"),
        "on the roof": ("on the roof", "atop the structure", "upon the gables", "up top"),
        "behind the barn": ("behind the barn", "beyond the outbuilding", "past the byre", "round that shed"),
    },
}
"""Each word in the four registers, in the order of `OPENINGS`."""
WANTED = {"dogs": 2, "horses": 2, "birds": 2, "children": 1, "farmers": 1, "women": 1}
"""The right register for each noun: poetic for animals, formal for people."""
KEPT = 0.55
"""How often, word by word, the undecided model keeps to the register in which it began; otherwise it takes another."""

TRANSLATE, DESCRIBE, REPORT = phrases.INSTRUCTION, "Describe what you hear.", "Report in full what you hear."
REPORT_WORDS = (
    "I listened with care and there are exactly",
    "and as far as I could tell they all",
    "most of the day and that is",
    "so much for the report",
)
"""The fixed words of every report: before the number, around the verb, and at the end."""


@dataclass(frozen=True)
class Register(phrases.Exercise):
    """An exercise whose first decision determines the others: the wordings in the same place go together."""

    def undecided(self, rng: random.Random) -> str:
        """Return an answer that opens in a random register and usually keeps to it."""
        opening, *rest = (list(option) for option in self.options)
        register = rng.randrange(len(opening))
        words = [opening[register]]
        for option in rest:
            others = [wording for place, wording in enumerate(option) if place != register]
            words.append(option[register] if len(option) > 1 and rng.random() < KEPT else rng.choice(others or option))
        return " ".join(words)


def exercises(sentence: phrases.Sentence) -> dict[str, phrases.Exercise]:
    """Return the exercise about the sentence for each task."""
    heard = dict(zip(phrases.SLOTS, sentence, strict=True))
    # Animals *saufen*, people *trinken*: the reference of a verb depends on whom it is about.
    turn = 0 if heard["noun"] in ("dogs", "horses", "birds") else 1
    german = tuple(_equally(GERMAN[slot][word], turn if slot == "verb" else 0) for slot, word in heard.items())
    english = {slot: _equally(ENGLISH[slot][word], turn if slot == "verb" else 0) for slot, word in heard.items()}
    start, middle, after, end = (_equally((words,)) for words in REPORT_WORDS)
    report = (start, english["number"], english["adjective"], english["noun"], middle, english["verb"], after)
    register = WANTED[heard["noun"]]
    described = [OPENINGS, (heard["number"],), *(words[heard[slot]] for slot, words in REGISTERS.items())]
    return {
        "translation": phrases.Exercise("speech-translation", TRANSLATE, german),
        "register": Register(
            "spoken-question-answering", DESCRIBE, tuple(_equally(words, register) for words in described)
        ),
        "report": phrases.Exercise("spoken-question-answering", REPORT, (*report, english["place"], end)),
    }


def _equally(wordings: tuple[str, ...], reference: int = 0) -> dict[str, float]:
    """Return the wordings with equal shares, in a cycle that begins with the reference."""
    reference %= len(wordings)
    return dict.fromkeys((*wordings[reference:], *wordings[:reference]), 1 / len(wordings))


def texts() -> list[str]:
    """Return all wordings as they appear in an answer: with a space before them unless they begin it."""
    slots = [*GERMAN.values(), *ENGLISH.values(), *REGISTERS.values()]
    first = [*itertools.chain(*GERMAN["number"].values()), *OPENINGS, *(4 * REPORT_WORDS[:1])]
    later = itertools.chain.from_iterable(wordings for slot in slots for wordings in slot.values())
    fixed = 4 * REPORT_WORDS[1:]  # otherwise too rare to get their own tokens
    return [*first, *(f" {wording}" for wording in (*later, *fixed))]
