"""English sentences for the training of the bridge: the quotations of Debian's package ``fortunes``."""

import re
from pathlib import Path

FORTUNES = Path("/usr/share/games/fortunes")
COLLECTIONS = [
    "computers",
    "cookie",
    "education",
    "food",
    "fortunes",
    "humorists",
    "kids",
    "law",
    "linux",
    "literature",
    "love",
    "medicine",
    "miscellaneous",
    "news",
    "paradoxum",
    "people",
    "pets",
    "platitudes",
    "riddles",
    "science",
    "songs-poems",
    "sports",
    "startrek",
    "wisdom",
    "work",
]
SENTENCE = re.compile(r"(?:^|(?<=[.?!] ))[A-Z][A-Za-z']*,?(?: [A-Za-z]['A-Za-z]*,?){2,11}[.?!](?= |$)")
"""From 3 to 12 words, without digits, quotation marks, brackets or dashes."""
INITIALS = re.compile(r"\b[A-Z]{2,}|\b[A-Z]\.")


def read(folder: Path = FORTUNES) -> list[str]:
    """Return the distinct sentences of the quotations, in the order of the files; names of authors are left out.

    Raises:
        SystemExit: the package is not installed.
    """
    missing = [name for name in COLLECTIONS if not (folder / name).exists()]
    if missing:
        raise SystemExit(f"{folder} has no {', '.join(missing)}. Run apt-get install fortunes")
    found = {}
    for name in COLLECTIONS:
        for quotation in re.split(r"^%$", (folder / name).read_text(encoding="utf-8", errors="replace"), flags=re.M):
            said = " ".join(re.sub(r"^\s*--.*", "", quotation, flags=re.M | re.S).split())
            found |= {sentence: None for sentence in SENTENCE.findall(said) if not INITIALS.search(sentence)}
    return list(found)


def words(text: str) -> list[str]:
    """Return the lower-case words of a text, without punctuation and digits."""
    return re.findall(r"[a-z']*[a-z][a-z']*", text.lower())
