"""CoVoST 2: speech from Common Voice and its translation.

Rows marked train or train_covost are for training, those marked dev for validation, and those marked test for test. The
rows marked dev_covost and test_covost are for other uses and are left out.
"""

import os
import re
from pathlib import Path

from verl_leaf.prepare.corpus import TEST, TRAIN, VALIDATION, Corpus, Item, Rejected, Segment, need
from verl_leaf.prepare.tables import Rows, read_lines_of_fields

HELP = "CoVoST 2: speech translation of any language pair"
SPLITS = {"train": TRAIN, "train_covost": TRAIN, "dev": VALIDATION, "test": TEST}
LANGUAGES = {
    "ar": "Arabic", "ca": "Catalan", "cy": "Welsh", "de": "German", "en": "English", "es": "Spanish", "et": "Estonian",
    "fa": "Persian", "fr": "French", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "lv": "Latvian",
    "mn": "Mongolian", "nl": "Dutch", "pt": "Portuguese", "ru": "Russian", "sl": "Slovenian", "sv-SE": "Swedish",
    "ta": "Tamil", "tr": "Turkish", "zh-CN": "Chinese",
}  # fmt: skip
PHRASINGS = (
    "<audio>\nTranslate the {source} speech into {target}.",
    "Translate what is said into {target}.\n<audio>",
    "Here is a recording in {source}: <audio>\nGive its translation into {target} and nothing else.",
    "<audio>\nHow would one say this in {target}?",
)


def add_arguments(parser) -> None:
    parser.add_argument("--translations", type=Path, required=True, help="file covost_v2.<source>_<target>.tsv")
    parser.add_argument("--audio", type=Path, required=True, help="Common Voice's folder with validated.tsv and clips/")


def read(options) -> Corpus:
    pair = re.fullmatch(r"covost_v2\.([\w-]+)_([\w-]+)\.tsv", options.translations.name)
    if pair is None or not set(pair.groups()) <= LANGUAGES.keys():
        raise ValueError(
            f"{options.translations} is not named covost_v2.<source>_<target>.tsv with two of {', '.join(LANGUAGES)}"
        )
    need(options.translations, "the table of translations of CoVoST 2", "file")
    need(options.audio, "Common Voice, with validated.tsv and clips/")
    sentences, problem = _sentences(need(options.audio / "validated.tsv", "Common Voice's table beside clips/", "file"))
    source, target = (LANGUAGES[code] for code in pair.groups())
    corpus = Corpus(
        "covost2_{}_{}".format(*pair.groups()),
        tuple(text.replace("{source}", source).replace("{target}", target) for text in PHRASINGS),
        one_phrasing=(VALIDATION, TEST),
    )
    for place, row in _table(options.translations, "path", "translation", "split"):
        if isinstance(row, str):
            corpus.add(Rejected(place, place, row))
            continue
        try:
            corpus.add(_item(row, place, sentences, problem, options.audio / "clips"))
        except ValueError as error:
            corpus.add(Rejected(row["path"], place, str(error)))
    return corpus


def _item(row: dict, place: str, sentences: dict[str, str], problem: str, clips: Path) -> Item:
    name, translation, split = row["path"], row["translation"].strip(), row["split"]
    if split not in SPLITS:
        raise ValueError(f"its split is {split!r}, but only {', '.join(SPLITS)} are used")
    if name not in sentences:
        raise ValueError(f"it is not in validated.tsv{problem}")
    if not os.path.isfile(clips / name):
        raise ValueError(f"{clips / name}: no such file")
    if not translation:
        raise ValueError("it has no translation")
    audio = (Segment(str(clips / name)),)
    return Item(Path(name).stem, SPLITS[split], (audio,), (translation,), phrase_by=sentences[name], source=place)


def _sentences(file: Path) -> tuple[dict[str, str], str]:
    """Return the sentence of each clip, and a remark on lines that cannot be read."""
    sentences, broken = {}, []
    for place, row in _table(file, "path", "sentence"):
        if isinstance(row, str):
            broken.append(place)
        else:
            sentences[row["path"]] = row["sentence"]
    problem = f" ({len(broken)} of its lines have a wrong number of fields; the first is {broken[0]})" if broken else ""
    return sentences, problem


def _table(file: Path, *columns: str) -> Rows:
    """Return a table's rows as CoVoST's own script reads them: without quotation marks, with backslash as the escape."""
    return read_lines_of_fields(file, columns, "\t", escape="\\")
