"""Reading of LongAudio's question sets (hub data set nvidia/LongAudio)."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.prepare.corpus import Item, Rejected, Segment, hashed_split, question_file, text_of
from verl_leaf.prepare.tables import read_json

MAX_SECONDS = 40.0
MULTIPLE_CHOICE = ("Choose the correct option", "Choose the correct answer")
PHRASINGS = (f"{PLACEHOLDER}\n{{question}}",)  # for questions that do not place the audio

Find = Callable[[str], tuple[Segment, ...]]  # name of a sound -> its segments, or a ValueError


def read(folder: Path | None, name: str, find: Find) -> Iterator[Item | Rejected]:
    """Yield the items of a question file in a folder or on the hub; ``find`` returns the segments of a sound's name."""
    for place, record in read_json(question_file(folder, name, "nvidia/LongAudio", "longaudio_xl")):
        yield Rejected(place, place, record) if isinstance(record, str) else _item(record, place, find)


def _item(record: dict, place: str, find: Find) -> Item | Rejected:
    id = place
    try:
        id = text_of(record.get("id"), "id")
        if not id:
            id = place
            raise ValueError("it has no id, which would decide its split")
        human, answer = _conversation(record.get("conversations"))
        seconds = float(text_of(record.get("duration"), "duration") or 0)
        if any(words in human for words in MULTIPLE_CHOICE) or answer.startswith("("):
            raise ValueError("it is multiple choice")
        if seconds > MAX_SECONDS:
            raise ValueError(f"it lasts {seconds:g} s, more than {MAX_SECONDS:g} s")
        question, prompt = _question(human)
        segments = _segments(record.get("sound"), find)
    except ValueError as error:
        return Rejected(id, place, str(error))
    return Item(id, hashed_split(id, 0.1), (segments,), (answer,), question, prompt, source=place)


def _conversation(turns) -> tuple[str, str]:
    """Return the human's turn and the answer; the list of turns may be written as a string."""
    if isinstance(turns, str):
        try:
            turns = ast.literal_eval(turns)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise ValueError(f"conversations cannot be read ({type(error).__name__})") from error
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("conversations is not a list of turns")
    if [turn.get("from") for turn in turns] != ["human", "gpt"]:
        raise ValueError(f"conversations has {len(turns)} turns instead of one of human and one of gpt")
    human, answer = (text_of(turn.get("value"), f"turn of {turn['from']}") for turn in turns)
    if not answer:
        raise ValueError("it has no answer")
    return human, answer


def _question(human: str) -> tuple[str, str]:
    """Return the question without audio, and the whole prompt if the question places the audio."""
    if PLACEHOLDER in human:
        raise ValueError(f"the question contains {PLACEHOLDER}, which stands for audio")
    prompt = re.sub(r"<sound>(\s*<sound>)*", PLACEHOLDER, human)  # one <sound> per segment; segments are joined
    question = prompt.replace(PLACEHOLDER, "").strip()
    if not question:
        raise ValueError("it has no question")
    if prompt.count(PLACEHOLDER) > 1:
        raise ValueError("the question contains <sound> in more than one place")
    return question, prompt if PLACEHOLDER in prompt else ""


def _segments(sounds, find: Find) -> tuple[Segment, ...]:
    sounds = [sounds] if isinstance(sounds, str) else sounds
    if not isinstance(sounds, list) or not sounds or not all(isinstance(sound, str) and sound for sound in sounds):
        raise ValueError("sound is neither the name of a file nor a list of names")
    return tuple(segment for sound in sounds for segment in find(text_of(sound, "sound")))
