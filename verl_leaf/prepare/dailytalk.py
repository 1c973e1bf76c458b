"""DailyTalk with LongAudio's questions: a dialogue is its utterances, joined in the order of their turns.

Splits are by a hash of the question's id, a tenth each for test and validation; 40 s at most, no multiple choice.
"""

import functools
import os
import re
from pathlib import Path

from verl_leaf.prepare import longaudio
from verl_leaf.prepare.corpus import Corpus, Segment, need

HELP = "DailyTalk: questions about dialogues (LongAudio)"


def add_arguments(parser) -> None:
    parser.add_argument("--questions", type=Path, help="folder of DailyTalk_LongAudio.json (default: the hub)")
    parser.add_argument(
        "--audio", type=Path, required=True, help="DailyTalk: the folder of data/<dialogue>/, or data itself"
    )


def read(options) -> Corpus:
    need(options.audio, "DailyTalk, one folder per dialogue")
    corpus = Corpus("dailytalk_longaudio", longaudio.PHRASINGS, max_seconds=longaudio.MAX_SECONDS)
    find = functools.cache(functools.partial(_dialogue, options.audio))
    for item in longaudio.read(options.questions, "DailyTalk_LongAudio.json", find):
        corpus.add(item)
    return corpus


def _dialogue(root: Path, sound: str) -> tuple[Segment, ...]:
    number = Path(sound).stem
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise ValueError(f"{sound}: its name is no number of a dialogue")
    for folder in (root / "data", root):
        for name in (number, f"d{int(number):04d}"):
            if os.path.isdir(folder / name):
                return _utterances(folder / name, int(number))
    raise ValueError(f"dialogue {number}: no utterances in {root}, with or without data/")


def _utterances(folder: Path, number: int) -> tuple[Segment, ...]:
    """A dialogue's utterances in the order of their turns; files that are not named as one are none."""
    name = re.compile(rf"([0-9]+)_[0-9]+_d0*{number}\.wav", re.IGNORECASE)
    found = [(int(named[1]), file) for file in os.listdir(folder) if (named := name.fullmatch(file))]
    if not found:
        raise ValueError(f"dialogue {number}: no utterances in {folder}")
    found.sort()
    if [turn for turn, _ in found] != [*range(len(found))]:
        turns = ", ".join(str(turn) for turn, _ in found)
        raise ValueError(f"dialogue {number}: not every turn is there once in {folder}, but {turns}")
    return tuple(Segment(str(folder / file)) for _, file in found)
