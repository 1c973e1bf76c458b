"""Text for a terminal. Imports no library, so that the command line answers at once."""

import unicodedata


def printable(text: str) -> str:
    """Return the text with its control characters and lone surrogates as escapes, all but line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(
        ascii(character)[1:-1]
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        else character
        for character in text
    )
