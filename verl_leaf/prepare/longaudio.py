"""What the question sets of LongAudio (hub data set nvidia/LongAudio) have in common."""

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from verl_leaf.prepare.corpus import TEST, TRAIN, VALIDATION, Item, Rejected, Segment, fraction, question_file

MAX_SECONDS = 40.0
MULTIPLE_CHOICE = ("Choose the correct option", "Choose the correct answer")
PHRASINGS = (
    "<audio>\n{question}",
    "{question}\n<audio>",
    "Listen carefully, then answer.\n<audio>\n{question}",
    "The question is about this recording: <audio>\n{question}",
)

Find = Callable[[str], tuple[Segment, ...] | str]  # name of a sound -> its segments, or why it cannot be had


def read(folder: Path | None, name: str, find: Find) -> Iterator[Item | Rejected]:
    """Items of one question file.

    Args:
        folder: where the file is; the hub if None.
        name: of the file.
        find: gives the segments of a name in ``sound``.
    """
    file = question_file(folder, name, "nvidia/LongAudio", "longaudio_xl")
    for number, record in enumerate(json.loads(file.read_text())):
        yield _item(record, f"{file.name}, record {number}", find)


def _item(record: dict, source: str, find: Find) -> Item | Rejected:
    id = str(record.get("id"))
    try:
        question, answer = _conversation(record)
        sounds = record["sound"]
    except (KeyError, ValueError, SyntaxError, TypeError) as error:
        return Rejected(id, source, f"cannot be understood ({type(error).__name__}: {error})")
    if any(words in question for words in MULTIPLE_CHOICE) or answer.startswith("("):
        return Rejected(id, source, "is multiple choice")
    if float(record.get("duration") or 0) > MAX_SECONDS:
        return Rejected(id, source, f"lasts {float(record['duration']):g} s, more than {MAX_SECONDS:g}")
    segments: list[Segment] = []
    for sound in [sounds] if isinstance(sounds, str) else sounds:
        found = find(sound)
        if isinstance(found, str):
            return Rejected(id, source, found)
        segments += found
    share = fraction(id)
    split = TEST if share < 0.1 else VALIDATION if share < 0.2 else TRAIN
    return Item(id, split, (tuple(segments),), (answer,), question, source=source)


def _conversation(record: dict) -> tuple[str, str]:
    """Question and answer of a record; the list may be written as a string."""
    turns = record["conversations"]
    turns = ast.literal_eval(turns) if isinstance(turns, str) else turns
    said = {turn["from"]: turn["value"].strip() for turn in reversed(turns)}
    question, answer = said["human"].replace("<sound>", "").strip(), said["gpt"]
    if not question or not answer:
        raise ValueError("question or answer is empty")
    return question, answer
