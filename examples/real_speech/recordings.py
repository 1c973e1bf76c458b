"""Recordings of people with transcripts, which no training has seen, from two packages of Debian."""

import gzip
import random
import re
from collections.abc import Iterator
from pathlib import Path

from examples.human_speech import prepare as librivox
from examples.real_speech.sentences import words

PROMPTS = Path("/usr/share/asterisk/sounds/en")
PROMPT_TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
LINE = re.compile(r"([\w/-]+): ([A-Za-z',.?! ]+)")
"""A prompt without digits, brackets or dashes."""
MIN_WORDS = 4
MAX_WORDS = 20
NUMBERS = frozenset(
    [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "hundred",
        "thousand",
        "first",
        "second",
    ]
)
"""Prompts with them are left out, because Whisper writes digits."""


def found(prompts: int, seed: int = 0) -> list[tuple[str, Path, str]]:
    """Return a name, a sound file and the lower-case words of each recording: LibriVox's, and a sample of Asterisk's prompts.

    A package that is not installed is left out, and a message is printed.

    Raises:
        SystemExit: neither package is installed.
    """
    recordings = []
    if librivox.RECORDINGS.exists():
        recordings += [
            (f"librivox-{name}", librivox.RECORDINGS / f"{name}.wav", text) for text, name in librivox.clips()
        ]
    else:
        print("LibriVox's recordings are left out. To use them: apt-get install pocketsphinx-testdata")
    if PROMPTS.exists() and PROMPT_TEXTS.exists():
        usable = list(_prompts())
        recordings += random.Random(seed).sample(usable, min(prompts, len(usable)))
    else:
        print(
            "Asterisk's prompts are left out. To use them: "
            "apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-wav"
        )
    if not recordings:
        raise SystemExit("there are no recordings of people to measure on. Install one of the two packages above")
    return recordings


def _prompts() -> Iterator[tuple[str, Path, str]]:
    for line in gzip.open(PROMPT_TEXTS, "rt", encoding="utf-8"):
        if (match := LINE.fullmatch(line.strip())) and (path := PROMPTS / f"{match[1]}.wav").exists():
            said = words(match[2])
            if MIN_WORDS <= len(said) <= MAX_WORDS and not NUMBERS & set(said) and min(map(len, said[1:])) > 1:
                yield f"asterisk-{match[1].replace('/', '-')}", path, " ".join(said)
