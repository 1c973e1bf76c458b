"""LibriSQA part I: questions about sentences of LibriSpeech (hub data set ZihanZhao/LibriSQA).

The test split is the data set's. A fifth of its train split is held out for validation, by a hash of the audio's name.
"""

import os
from pathlib import Path

from verl_leaf.prepare.corpus import (
    TEST,
    TRAIN,
    VALIDATION,
    Corpus,
    Item,
    Rejected,
    Segment,
    fraction,
    need,
    question_file,
    text_of,
)
from verl_leaf.prepare.tables import read_json

HELP = "LibriSQA part I: questions about LibriSpeech"
HELD_OUT = 0.2  # share of the clips of train
PHRASINGS = (
    "<audio>\n{question}",
    "{question}\n<audio>",
    "Listen to the recording and answer the question.\n<audio>\nQuestion: {question}",
    "Question about the following speech: {question}\n<audio>\nAnswer in one or two sentences.",
)


def add_arguments(parser) -> None:
    parser.add_argument("--questions", type=Path, help="folder of LibriSQA-PartI-{train,test}.json (default: the hub)")
    parser.add_argument("--audio", type=Path, required=True, help="folder of LibriSpeech, or the folder above it")


def read(options) -> Corpus:
    need(options.audio, "LibriSpeech, with train-clean-360 and test-clean")
    corpus = Corpus("librisqa", PHRASINGS)
    for split in (TRAIN, TEST):
        name = f"LibriSQA-PartI-{split}.json"
        file = question_file(options.questions, name, "ZihanZhao/LibriSQA", "LibriSQA-PartI")
        for place, record in read_json(file):
            if isinstance(record, str):
                corpus.add(Rejected(place, place, record))
            else:
                corpus.add(_item(record, split, place, options.audio))
    return corpus


def _item(record: dict, split: str, place: str, audio: Path) -> Item | Rejected:
    id = place
    try:
        named = [text_of(record.get(key), key) for key in ("speech_path", "audio_path", "path")]
        name = next(filter(None, named), "")
        stem = Path(name).stem
        if stem:
            id = f"{stem}-{place.split()[-1]}"
        question, answer = text_of(record.get("question"), "question"), text_of(record.get("answer"), "answer")
        if not (stem and question and answer):
            raise ValueError("it lacks audio, question or answer")
        path = _find(audio, Path(name))
    except ValueError as error:
        return Rejected(id, place, str(error))
    if split == TRAIN and fraction(stem) < HELD_OUT:
        split = VALIDATION
    return Item(id, split, ((Segment(str(path)),),), (answer,), question, source=place, numbered=True)


def _find(root: Path, name: Path) -> Path:
    """Return the file of a name; on disk its suffix and its top folder may differ."""
    inner = Path(*name.parts[1:]) if name.parts[0] == "LibriSpeech" else name
    for path in (root / name, root / inner, root / "LibriSpeech" / inner):
        for suffix in (name.suffix, ".flac", ".wav"):
            file = path.with_name(name.stem + suffix)
            if os.path.isfile(file):
                return file
    raise ValueError(f"{name}: no such file below {root}, as .flac or .wav, with or without LibriSpeech/")
