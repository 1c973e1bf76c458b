"""Texts in the form in which rewards and scores compare them."""


def collapse(text: str) -> str:
    """Return a text with single spaces and none at its ends; NUL is white space, and a lone surrogate becomes ``?``."""
    return " ".join(text.encode(errors="replace").decode().replace("\0", " ").split())
