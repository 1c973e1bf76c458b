"""The lettered choices of a row: reading them, finding the right one, and comparing their texts."""

import string
from collections.abc import Sequence

from verl_leaf.common.texts import collapse

MAX_CHOICES = len(string.ascii_uppercase)
PUNCTUATION = " .,;:!?\"'()[]{}<>*_`~|=…。、「」『』«»¿¡·"  # ignored at the ends of a text
ONE_FORM = str.maketrans(
    {wide: chr(wide - 0xFEE0) for wide in range(0xFF01, 0xFF5F)}  # full-width ASCII in Chinese and Japanese texts
    | dict(zip("‘’‛“”„–—−", "'''\"\"\"---", strict=True))
)


def letter_of(number: int) -> str:
    """Return the letter of a choice, given its index from 0."""
    return string.ascii_uppercase[number]


def row_choices(extra_info) -> tuple[str, ...]:
    """Return the choices of a row in the order of their letters; none if ``extra_info`` has no ``choices``.

    Raises:
        ValueError: the choices are not texts.
    """
    choices = (extra_info or {}).get("choices")
    choices = [] if choices is None else list(choices)
    if not all(isinstance(choice, str) for choice in choices):
        raise ValueError(f"extra_info.choices is {choices!r:.80}. It must be a list of texts")
    return tuple(choices)


def right_choice(references: Sequence[str], choices: Sequence[str]) -> int:
    """Return the index of the choice that a row's references name, by letter, by text or both.

    Raises:
        ValueError: there are too few or too many choices, one is empty or equal to another, or the references do not
            name one of them.
    """
    keys = [key_of(choice) for choice in choices]
    if not 2 <= len(keys) <= MAX_CHOICES:
        raise ValueError(f"there are {len(keys)} choices. There must be 2 to {MAX_CHOICES}")
    if twice := [choice for choice, key in zip(choices, keys, strict=True) if not key or keys.count(key) > 1]:
        raise ValueError(f"the choice {twice[0]!r:.80} is empty, or equal to another one")
    right = set(range(len(keys)))
    for reference in map(key_of, references):
        right &= {number for number, key in enumerate(keys) if reference in (key, letter_of(number).lower())}
    if len(right) != 1:
        raise ValueError(f"the reference {list(references)!r:.80} names none of the choices {list(choices)!r:.200}")
    return right.pop()


def plain(text: str) -> str:
    """Return a text with one form of each punctuation mark, and single spaces."""
    return collapse(text.translate(ONE_FORM))


def key_of(text: str) -> str:
    """Return a key that is the same for texts that differ only in case, punctuation at the ends, and white space."""
    return plain(text).strip(PUNCTUATION).casefold()
