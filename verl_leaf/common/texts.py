"""Texts as rewards and scores compare them."""


def collapse(text: str) -> str:
    """A text without white space at its ends and with single spaces; NUL is white space, a lone surrogate becomes ?."""
    return " ".join(text.encode(errors="replace").decode().replace("\0", " ").split())
