"""CoVoST 2: Common Voice speech and its translation.

Training rows are those marked train or train_covost; validation and test those marked dev and test.
"""

import csv
import re
from pathlib import Path

from verl_leaf.prepare.corpus import TEST, TRAIN, VALIDATION, Corpus, Item, Rejected, Segment, need

HELP = "CoVoST 2: speech translation, any pair"
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
    parser.add_argument("--translations", type=Path, required=True, help="covost_v2.<source>_<target>.tsv")
    parser.add_argument(
        "--audio", type=Path, required=True, help="Common Voice: the folder of validated.tsv and clips/"
    )


def read(options) -> Corpus:
    pair = re.fullmatch(r"covost_v2\.([\w-]+)_([\w-]+)\.tsv", options.translations.name)
    if pair is None or not set(pair.groups()) <= LANGUAGES.keys():
        raise ValueError(
            f"{options.translations} is not named covost_v2.<source>_<target>.tsv with two of {', '.join(LANGUAGES)}"
        )
    need(options.translations, "the table of translations of CoVoST 2")
    validated = need(options.audio / "validated.tsv", "Common Voice's table, beside its folder clips/")
    source, target = (LANGUAGES[code] for code in pair.groups())
    sentences = {row["path"]: row["sentence"] for row in _table(validated, "path", "sentence")}
    corpus = Corpus(
        "covost2_{}_{}".format(*pair.groups()),
        tuple(text.replace("{source}", source).replace("{target}", target) for text in PHRASINGS),
        one_phrasing=(VALIDATION, TEST),
    )
    for number, row in enumerate(_table(options.translations, "path", "translation", "split"), start=2):
        place = f"{options.translations.name}, line {number}"
        split, clip = SPLITS.get(row["split"]), options.audio / "clips" / row["path"]
        if split is None:
            continue  # dev_covost and test_covost are further rows for other uses
        if row["path"] not in sentences:
            corpus.add(Rejected(row["path"], place, "is not in validated.tsv"))
        elif not clip.is_file():
            corpus.add(Rejected(row["path"], place, f"{clip}: no such file"))
        elif not (row["translation"] or "").strip():
            corpus.add(Rejected(row["path"], place, "has no translation"))
        else:
            corpus.add(
                Item(
                    Path(row["path"]).stem,
                    split,
                    ((Segment(str(clip)),),),
                    (row["translation"],),
                    phrase_by=sentences[row["path"]],
                    source=place,
                )
            )
    return corpus


def _table(file: Path, *columns: str):
    """Rows of a tab-separated file, whose texts may hold quotation marks."""
    with open(file, encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        if missing := set(columns) - set(rows.fieldnames or ()):
            raise ValueError(
                f"{file}: no column {', '.join(sorted(missing))}; it has {', '.join(rows.fieldnames or ())}"
            )
        yield from rows
