"""DailyTalk with LongAudio's questions: a dialogue's audio is its utterances, joined in the order of the turns.

Splits are by a hash of the question's id: a tenth each for test and validation. Audio of more than 40 s and multiple-choice
questions are left out.
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
        "--audio", type=Path, required=True, help="DailyTalk's folder with data/<dialogue>/, or data itself"
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
        raise ValueError(f"{sound}: the name is not the number of a dialogue")
    for folder in (root / "data", root):
        for name in (number, f"d{int(number):04d}"):
            if os.path.isdir(folder / name):
                return _utterances(folder / name, int(number))
    raise ValueError(f"dialogue {number}: there are no utterances in {root}, with or without data/")


def _utterances(folder: Path, number: int) -> tuple[Segment, ...]:
    """Return a dialogue's utterances in the order of their turns; other files are ignored."""
    name = re.compile(rf"([0-9]+)_[0-9]+_d0*{number}\.wav", re.IGNORECASE)
    utterances = sorted((int(named[1]), file) for file in os.listdir(folder) if (named := name.fullmatch(file)))
    if not utterances:
        raise ValueError(f"dialogue {number}: there are no utterances in {folder}")
    if [turn for turn, _ in utterances] != [*range(len(utterances))]:
        turns = ", ".join(str(turn) for turn, _ in utterances)
        raise ValueError(f"dialogue {number}: {folder} does not contain every turn once, but the turns {turns}")
    return tuple(Segment(str(folder / file)) for _, file in utterances)
