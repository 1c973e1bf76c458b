"""LibriSQA part I: questions about sentences of LibriSpeech (hub data set ZihanZhao/LibriSQA).

Test is the data set's own; of train, a fifth is held out for validation, by a hash of the audio's name.
"""

import json
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
)

HELP = "LibriSQA part I: questions about LibriSpeech"
PHRASINGS = (
    "<audio>\n{question}",
    "{question}\n<audio>",
    "Listen to the recording and answer the question.\n<audio>\nQuestion: {question}",
    "Question about the following speech: {question}\n<audio>\nAnswer in one or two sentences.",
)


def add_arguments(parser) -> None:
    parser.add_argument("--questions", type=Path, help="folder of LibriSQA-PartI-{train,test}.json (default: the hub)")
    parser.add_argument("--audio", type=Path, required=True, help="LibriSpeech, or the folder above it")


def read(options) -> Corpus:
    need(options.audio, "LibriSpeech, with train-clean-360 and test-clean")
    corpus = Corpus("librisqa", PHRASINGS)
    for split in (TRAIN, TEST):
        name = f"LibriSQA-PartI-{split}.json"
        file = question_file(options.questions, name, "ZihanZhao/LibriSQA", "LibriSQA-PartI")
        for number, record in enumerate(json.loads(file.read_text())):
            corpus.add(_item(record, split, f"{file.name}, record {number}", options.audio))
    return corpus


def _item(record: dict, split: str, source: str, audio: Path) -> Item | Rejected:
    name = record.get("speech_path") or record.get("audio_path") or record.get("path")
    question, answer = record.get("question"), record.get("answer")
    if not (name and question and answer):
        return Rejected(source, source, "lacks audio, question or answer")
    stem = Path(name).stem
    path = _find(audio, Path(name))
    if path is None:
        return Rejected(
            stem, source, f"{name}: no such file below {audio}, as .flac or .wav, with or without LibriSpeech/"
        )
    if split == TRAIN and fraction(stem) < 0.2:
        split = VALIDATION
    return Item(f"{stem}-{source.split()[-1]}", split, ((Segment(str(path)),),), (answer,), question, source=source)


def _find(root: Path, name: Path) -> Path | None:
    inner = Path(*name.parts[1:]) if name.parts[0] == "LibriSpeech" else name
    for path in (root / name, root / inner, root / "LibriSpeech" / inner):
        for suffix in (name.suffix, ".flac", ".wav"):
            if path.with_suffix(suffix).is_file():
                return path.with_suffix(suffix)
    return None
