"""DailyTalk with LongAudio's questions: a dialogue is its utterances, joined in the order of their turns.

Splits are by a hash of the question's id, a tenth each for test and validation; 40 s at most, no multiple choice.
"""

import functools
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
    need(options.audio, "DailyTalk, one folder a dialogue")
    corpus = Corpus("dailytalk_longaudio", longaudio.PHRASINGS, max_seconds=longaudio.MAX_SECONDS)
    find = functools.cache(functools.partial(_dialogue, options.audio))
    for item in longaudio.read(options.questions, "DailyTalk_LongAudio.json", find):
        corpus.add(item)
    return corpus


def _dialogue(root: Path, sound: str) -> tuple[Segment, ...] | str:
    number = Path(sound).stem
    if not number.isdigit():
        return f"{sound}: its name is no number of a dialogue"
    for folder in (root / "data", root):
        for name in (number, f"d{int(number):04d}"):
            utterances = sorted((folder / name).glob("*_*_d*.wav"), key=lambda file: int(file.name.split("_")[0]))
            if utterances:
                return tuple(Segment(str(file)) for file in utterances)
    return f"dialogue {number}: no utterances in {root}, with or without data/"
