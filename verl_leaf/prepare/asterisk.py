"""Asterisk's prompts: one English speaker, for transcription or translation, from Debian's packages asterisk-core-sounds.

There is only one speaker, so the splits are by a hash of the English text: a tenth each for test and validation.
"""

import re
from pathlib import Path

from verl_leaf.prepare.corpus import TEST, VALIDATION, Corpus, Item, Rejected, Segment, hashed_split, need
from verl_leaf.prepare.covost2 import LANGUAGES
from verl_leaf.prepare.covost2 import PHRASINGS as TRANSLATE
from verl_leaf.prepare.fillets import MAX_SECONDS
from verl_leaf.prepare.tables import read_lines

HELP = "Asterisk's prompts (Debian): English transcription or translation"
LICENCE = "CC-BY-SA-3.0; read by Allison Smith"
TRANSCRIBE = ("<audio>\nWrite down what is said.", "Transcribe the recording.\n<audio>")
LINE = re.compile(r"([\w./-]+): *(.*)")


def add_arguments(parser) -> None:
    add = parser.add_argument
    add(
        "--answers",
        choices=("en", "fr", "es", "it"),
        default="en",
        help="language of the answers (default: %(default)s)",
    )
    add(
        "--sounds",
        type=Path,
        default=Path("/usr/share/asterisk/sounds/en"),
        help="folder of the sounds (default: %(default)s)",
    )
    add("--texts", type=Path, default=Path("/usr/share/doc"), help="folder of the texts (default: %(default)s)")


def read(options) -> Corpus:
    need(options.sounds, "the sounds of Debian's package asterisk-core-sounds-en-wav or -g722")
    english, answers = (_texts(options.texts, language) for language in ("en", options.answers))
    print(f"Asterisk's prompts: {LICENCE}")
    names = {"source": "English", "target": LANGUAGES[options.answers]}
    phrasings = TRANSCRIBE if options.answers == "en" else tuple(text.format(**names) for text in TRANSLATE)
    corpus = Corpus(
        f"asterisk_en_{options.answers}", phrasings, max_seconds=MAX_SECONDS, one_phrasing=(VALIDATION, TEST)
    )
    for name, text in english.items():
        clip = options.sounds / f"{name}.wav"
        if not text or text.startswith("["):
            corpus.add(Rejected(name, str(clip), "it has no speech"))
        elif not answers.get(name):
            corpus.add(Rejected(name, str(clip), f"it has no text in {names['target']}"))
        elif not clip.exists():
            corpus.add(Rejected(name, str(clip), "no such file"))
        else:
            split, audio = hashed_split(text, 0.1), (Segment(str(clip)),)
            corpus.add(Item(name, split, (audio,), (answers[name],), phrase_by=text, source=str(clip)))
    return corpus


def _texts(root: Path, language: str) -> dict[str, str]:
    package = f"asterisk-core-sounds-{language}"
    file = need(root / package / f"core-sounds-{language}.txt.gz", f"the texts of Debian's {package}", "file")
    return {match[1]: match[2] for line in read_lines(file) if (match := LINE.fullmatch(line.strip()))}
