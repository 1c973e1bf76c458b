"""The lettered choices of a row: which are there, which is the right one, and when two texts read the same."""

import string
from collections.abc import Sequence

from verl_leaf.common.texts import collapse

MAX_CHOICES = len(string.ascii_uppercase)
PUNCTUATION = " .,;:!?\"'()[]{}<>*_`~|=…。、「」『』«»¿¡·"  # at the ends of a text it is no part of it
ONE_FORM = str.maketrans(
    {wide: chr(wide - 0xFEE0) for wide in range(0xFF01, 0xFF5F)}  # the full-width ASCII of Chinese and Japanese texts
    | dict(zip("‘’‛“”„–—−", "'''\"\"\"---", strict=True))
)


def letter_of(number: int) -> str:
    """Return the letter of a choice, which is numbered from 0."""
    return string.ascii_uppercase[number]


def row_choices(extra_info) -> tuple[str, ...]:
    """Return the choices of a row, in the order of their letters; none if ``extra_info`` has no ``choices``.

    Raises:
        ValueError: they are not texts.
    """
    choices = (extra_info or {}).get("choices")
    choices = [] if choices is None else list(choices)
    if not all(isinstance(choice, str) for choice in choices):
        raise ValueError(f"extra_info.choices holds {choices!r:.80}; it must be a list of texts")
    return tuple(choices)


def right_choice(references: Sequence[str], choices: Sequence[str]) -> int:
    """Return the number of the choice that a row's references name, by letter, by text or both.

    Raises:
        ValueError: there are too few or too many choices, one has no text or that of another, or the references do not
            name one of them.
    """
    keys = [key_of(choice) for choice in choices]
    if not 2 <= len(keys) <= MAX_CHOICES:
        raise ValueError(f"has {len(keys)} choices; there must be 2 to {MAX_CHOICES}")
    if twice := [choice for choice, key in zip(choices, keys, strict=True) if not key or keys.count(key) > 1]:
        raise ValueError(f"the choice {twice[0]!r:.80} is empty, or another one reads the same")
    right = set(range(len(keys)))
    for reference in map(key_of, references):
        right &= {number for number, key in enumerate(keys) if reference in (key, letter_of(number).lower())}
    if len(right) != 1:
        raise ValueError(f"the reference {list(references)!r:.80} names none of the choices {list(choices)!r:.200}")
    return right.pop()


def plain(text: str) -> str:
    """Return a text with one form of each sign, and single spaces."""
    return collapse(text.translate(ONE_FORM))


def key_of(text: str) -> str:
    """Return what two texts that read the same have in common."""
    return plain(text).strip(PUNCTUATION).casefold()
