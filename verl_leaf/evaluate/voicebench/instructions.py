"""IFEval's verifiable instructions (arXiv 2311.07911), reimplemented as VoiceBench checks them.

A check is a function of an answer and of the instruction's arguments, with the data set's names. It returns whether the
answer follows the instruction.
"""

import json
import re
from collections.abc import Callable, Mapping

# Punkt's English model is a download. Its abbreviations hardly change the number of sentences of an answer.
ABBREVIATIONS = {"dr", "mr", "mrs", "ms", "prof", "st", "jr", "sr"}
ABBREVIATIONS |= {"vs", "etc", "e.g", "i.e", "inc", "ltd", "co", "p.s"}


def follows(text: str, instruction: str, wanted: Mapping) -> bool | None:
    """Return whether an answer follows an instruction, such as ``punctuation:no_comma``. An empty answer follows none.

    Return None if it cannot be checked: the language of an answer, an unknown instruction, or one with missing arguments.
    Empty arguments are ignored.
    """
    check = CHECKS.get(instruction)
    if check is None:
        return None
    if not text.strip():
        return False
    try:
        return check(text, **{name: value for name, value in wanted.items() if value})
    except TypeError:  # an argument is missing
        return None


def variants(text: str) -> list[str]:
    """Return the variants of an answer for loose scores: without its first line, last line or both, and without asterisks."""
    lines = text.split("\n")
    shorter = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [variant for part in (text, *shorter) for variant in (part, part.replace("*", ""))]


def _holds(count: int, relation: str, wanted: int) -> bool:
    return count < wanted if relation == "less than" else count >= wanted


def _find(word: str, text: str) -> list[str]:
    """Return the occurrences of a keyword, which is read as a regular expression if it is a valid one."""
    try:
        return re.findall(word, text, re.IGNORECASE)
    except re.error:
        return re.findall(re.escape(word), text, re.IGNORECASE)


def _frequency(text: str, keyword: str, frequency: int, relation: str = "at least") -> bool:
    return _holds(len(_find(keyword.strip(), text)), relation, frequency)


def _letters(text: str, letter: str, let_frequency: int, let_relation: str = "at least") -> bool:
    return _holds(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _sentences(text: str, num_sentences: int, relation: str = "at least") -> bool:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer  # nltk takes seconds to import

    parameters = PunktParameters()
    parameters.abbrev_types = ABBREVIATIONS
    return _holds(len(PunktSentenceTokenizer(parameters).tokenize(text)), relation, num_sentences)


def _words(text: str, num_words: int, relation: str = "at least") -> bool:
    return _holds(len(re.findall(r"\w+", text)), relation, num_words)


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part.strip() for part in text.split("\n\n")]
    count = sum(map(bool, parts))
    if nth_paragraph > count or not parts[nth_paragraph - 1]:
        return False
    begin = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return count == num_paragraphs and re.split(r"[.,?!'\"]", begin)[0].lower() == first_word.lower()


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    spaced = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(spaced.get(marker, marker.lower()), text.lower()) is not None


def _bullets(text: str, num_bullets: int) -> bool:
    starred, dashed = (re.findall(rf"^\s*{mark}.*$", text, re.MULTILINE) for mark in (r"\*[^*]", "-"))
    return len(starred) + len(dashed) == num_bullets


def _highlights(text: str, num_highlights: int) -> bool:
    """Return whether there are enough highlights. As in VoiceBench, ``**text**`` may be counted once more as ``*text*``."""
    highlights = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(highlight.strip("*").strip()) for highlight in highlights) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{section_spliter.strip()}\s?\d+", text)) >= num_sections


def _json(text: str) -> bool:
    bare = re.sub(r"^```(?:json|Json|JSON)?|```$", "", text.strip()).strip()
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def _capital_words(text: str, capital_frequency: int, capital_relation: str = "at least") -> bool:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    words = NLTKWordTokenizer().tokenize(text)
    return _holds(sum(word.isupper() for word in words), capital_relation, capital_frequency)


def _quoted(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": lambda text, keywords: all(_find(word, text) for word in keywords),
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": lambda text, forbidden_words: (
        not any(_find(rf"\b{word}\b", text) for word in forbidden_words)
    ),
    "keywords:letter_frequency": _letters,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:postscript": _postscript,
    "detectable_content:number_placeholders": lambda text, num_placeholders: (
        len(re.findall(r"\[.*?\]", text)) >= num_placeholders
    ),
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text: (
        re.search(r"My answer is (yes|no|maybe)\.", text) is not None
    ),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda text: any(
        title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text)
    ),
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "punctuation:no_comma": lambda text: "," not in text,
}
