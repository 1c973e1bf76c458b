"""Reading of multiple-choice replies: the named choice, and the format.

Nothing is guessed: a reply that names two choices, denies one or leaves a tag open names none. The time grows linearly with
the length of a reply.
"""

import functools
import re
import string
from collections.abc import Callable, Sequence

from verl_leaf.data.choices import PUNCTUATION, key_of, plain, right_choice

_TAG = re.compile(r"(</?answer>)", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(r"\W*([a-z])\W*?(?:([)\].,:-]| )\W*(.*))?", re.IGNORECASE)
# A character that continues a word, in scripts that separate words by spaces.
_W = r"[^\W_\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
# A letter within a sentence: a capital other than "I" that is neither an initial nor part of a hyphenated word, or a letter of
# either case in brackets or after a word that announces it.
_CAPITAL = rf"(?<!{_W})(?<!\w[-'.])[A-HJ-Z](?!{_W})(?![-'.]{_W})"
_BRACKETED = r"[(\[{] ?[a-zA-Z] ?[)\]}]"
_ANNOUNCED = (
    r"\b(?i:answer|option|choice|letter|choose|pick|select)(?: is)?(?: ?: ?| )[*\"'(]?[a-zA-Z]"
    r"(?=$|[^\w\s'-]| (?:is|because|since)\b)"
)
_LETTER = re.compile(f"{_CAPITAL}|{_BRACKETED}|{_ANNOUNCED}")
# A capital before any other word is an article, as in "A dog", or something else, as in "C minor".
_BEFORE_A_WORD = re.compile(
    r" (?!(?:is|was|and|or|because|since|as|so|for|with|but|then|would|seems|not|ist|und|oder|est|et|ou|es|y)\b)"
    rf"{_W}{{2}}"
)
_NOT = r"(?:\w*n't\b|\b(?:not|no(?! doubt)|never|neither|nor|cannot|except|wrong|incorrect|false|nicht|kein\w*|falsch|pas)\b)"
_SAME_CLAUSE = r"[^\w,.;:!?]"
_DENIED = (  # a denial before a choice, up to five words away, or directly after it
    re.compile(
        rf"{_NOT}(?:{_SAME_CLAUSE}+\w+){{0,5}}{_SAME_CLAUSE}*$|[不没沒非错錯][^,.;:!?。]{{0,4}}$", re.IGNORECASE
    ),
    re.compile(rf"{_SAME_CLAUSE}*(?:\w+{_SAME_CLAUSE}+)?{_NOT}|[^,.;:!?。]{{0,3}}[不没沒非错錯]", re.IGNORECASE),
)
_MOST_NAMES = 50  # a reply that names choices more often is not read, because each name needs a search for denials
_WINDOW = 80  # characters before and after a choice that are searched for a denial


def named_choice(reply: str, choices: Sequence[str]) -> int | None:
    """Return the index of the one choice that a reply names, by letter or text, or None if it names none or several.

    If there are ``<answer>`` tags, their content decides; otherwise the whole reply without ``<think>``. A letter with
    its own text (``B) dog``) is one name. A single letter is read as a letter, even if it is the text of another
    choice.
    """
    region = _region(reply)
    if region is None:
        return None
    region, texts = plain(region), [plain(choice).strip(PUNCTUATION) for choice in choices]
    keys = [text.casefold() for text in texts]
    if exact := _LETTER_AND_TEXT.fullmatch(region):
        number, text = string.ascii_lowercase.index(exact[1].lower()), key_of(exact[3] or "")
        if not text or text in keys[number : number + 1]:
            return number if number < len(keys) else None
        if text in keys and exact[2] != " ":  # the text of another choice, or "a" is an article
            return None
    if (whole := key_of(region)) in keys:
        return keys.index(whole)
    return _mentioned(region, texts)


def has_format(reply: str, thinking: bool) -> bool:
    """Return whether a reply is only ``<answer>...</answer>``, after ``<think>...</think>`` if ``thinking``."""
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    holds_text = [False, True, False, True, False]
    pieces = re.split(r"(</?(?:think|answer)>)", reply)
    first = 0 if thinking else 2
    return pieces[1::2] == tags[first:] and [bool(piece.strip()) for piece in pieces[::2]] == holds_text[first:]


def _choice(reply: str, references: Sequence[str], choices: Sequence[str]) -> tuple[float, dict[str, float]]:
    right, named = right_choice(references, choices), named_choice(reply, choices)
    return float(named == right), {"choice": float(named == right), "choice_unread": float(named is None)}


def _format(thinking: bool, reply: str, *_) -> tuple[float, dict[str, float]]:
    value = float(has_format(reply, thinking))
    return value, {"think_format" if thinking else "answer_format": value}


# Functions from a reply, references and choices to the result of :func:`verl_leaf.rewards.metrics.measure`.
CHOICE_METRICS: dict[str, Callable[[str, Sequence[str], Sequence[str]], tuple[float, dict[str, float]]]] = {
    "choice": _choice,
    "answer_format": functools.partial(_format, False),
    "think_format": functools.partial(_format, True),
}


def _region(reply: str) -> str | None:
    """Return the part of a reply that decides, or None if a tag is open."""
    rest = reply.rpartition("</think>")[2]
    pieces = _TAG.split(rest)
    tags = [tag.lower() for tag in pieces[1::2]]
    if tags != ["<answer>", "</answer>"] * (len(tags) // 2):
        return None
    if tags:
        return "\n".join(pieces[2::4])
    return None if "<think>" in rest else rest


def _mentioned(region: str, texts: Sequence[str]) -> int | None:
    """Return the one choice that a text mentions and does not deny, or None."""
    mentions = [
        (match.start(), -match.end(), number)
        for number, text in enumerate(texts)
        if not re.fullmatch("[a-zA-Z]", text)
        for match in _as_words(text).finditer(region)
    ]
    spans, end, rest = [], 0, list(region)
    for start, stop, number in sorted(mentions):
        if start >= end:  # a choice's text within another choice's text is not a mention
            end = -stop
            spans.append((start, end, number))
            rest[start:end] = " " * (end - start)
    for match in _LETTER.finditer(region):
        letter = match[0].strip(PUNCTUATION)[-1]
        is_article = _BEFORE_A_WORD.match(region, match.end()) is not None
        if rest[match.end() - 1] != " " and not (is_article and letter == "A"):
            spans.append((*match.span(), len(texts) if is_article else string.ascii_uppercase.index(letter.upper())))
    named = {number for *_, number in spans}
    masked = "".join(rest)
    if len(named) != 1 or max(named) >= len(texts) or len(spans) > _MOST_NAMES:
        return None
    if any(_is_denied(masked, *span) for *span, _ in spans):
        return None
    return named.pop()


def _is_denied(text: str, start: int, stop: int) -> bool:
    before, behind = text[max(0, start - _WINDOW) : start], text[stop : stop + _WINDOW]
    return bool(_DENIED[0].search(before) or _DENIED[1].match(behind))


def _as_words(text: str) -> re.Pattern[str]:
    """Return a pattern that finds a text unless it is part of a longer word or number."""
    first, last = (bool(re.match(_W, edge)) for edge in (text[0], text[-1]))
    before = rf"(?<!{_W})" * first + r"(?<!\d[.,])(?<!-)" * text[0].isdigit()
    behind = rf"(?!{_W})" * last + r"(?![.,]\d)" * text[-1].isdigit()
    return re.compile(f"{before}{re.escape(text)}{behind}", re.IGNORECASE)
