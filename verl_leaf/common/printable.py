"""Text for a terminal. This file imports no library, so that the command line starts quickly."""

import unicodedata


def printable(text: str) -> str:
    """Return the text with control characters and lone surrogates escaped, except line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(
        ascii(character)[1:-1]
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        else character
        for character in text
    )
