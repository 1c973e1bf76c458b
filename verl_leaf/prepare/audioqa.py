"""Multiple-choice questions about audio: AVQA, AudioMCQ and MMAU as published, or your own tables.

Every table in the folder with the columns of a known layout is read. A hash of a row's id orders its choices.
"""

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.data.choices import letter_of, right_choice
from verl_leaf.data.references import absolute_audio
from verl_leaf.prepare.corpus import (
    TEST,
    TRAIN,
    VALIDATION,
    Corpus,
    Item,
    Rejected,
    Segment,
    fraction,
    hashed_split,
    need,
    text_of,
)
from verl_leaf.prepare.manifest import SUFFIXES, audio_path, check_held_out, embedded_audio, table_rows

HELP = "AVQA, AudioMCQ, MMAU, or your own table with a column of choices"
LETTER = "the letter of the right choice between <answer> and </answer>"
PHRASINGS = {
    False: f"{PLACEHOLDER}\n{{question}}\n{{choices}}\nWrite {LETTER}.",
    True: f"{PLACEHOLDER}\n{{question}}\n{{choices}}\nFirst write what you hear and conclude between <think> and </think>, "
    f"then {LETTER}.",
}
SPLITS = {"train": TRAIN, "val": VALIDATION, "dev": VALIDATION, "test": TEST}
# A word in a name, and not the beginning of another one, such as "devices".
SPLIT = re.compile(r"(?<![a-z])(train|val|dev|test)(?:ing|id|idation|el|elopment|mini)?(?![a-z])")
SOUND = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")  # preferred to a video of the same name
LETTERED = re.compile(r"\(?([A-Z])[).:]\s*(?=\S)")


@dataclass(frozen=True)
class Layout:
    """The column names of a table; if a role's column is missing, the role is empty in all rows."""

    name: str  # name of the data source
    audio: str = "audio"
    question: str = "question"
    choices: str = "choices"
    answer: str = "answer"
    id: str = "id"
    split: str = "split"
    category: str = "category"
    difficulty: str = "difficulty"

    @property
    def needed(self) -> tuple[str, ...]:
        return self.audio, self.question, self.choices, self.answer


AVQA = Layout("avqa", "video_name", "question_text", "multi_choice", category="question_relation")
AVQA_HUB = Layout("avqa", choices="question")  # the choices are in the question, after a line "Choices:"
MMAU = Layout("mmau", audio="audio_id", category="task")
MMAU_HUB = Layout("mmau", "context", "instruction", category="task")  # other_attributes contains the rest as JSON
AUDIOMCQ = Layout("audiomcq", audio="audio_path", category="question_type")
LAYOUTS = (AVQA, MMAU_HUB, MMAU, AUDIOMCQ)
ROLES = ("audio", "question", "choices", "answer", "id", "split", "category", "difficulty")


def add_arguments(parser) -> None:
    add = parser.add_argument
    add("folder", type=Path, help="folder of the data set, or a table")
    add("--audio", type=Path, help="folder of the audio (default: that of the data set)")
    add("--thinking", action="store_true", help="ask for <think> before <answer>")
    add("--seed", default="0", help="seed of the order of choices (default: %(default)s)")
    add("--name", help="data_source of the rows (default: the layout's name, or the file's)")
    add(
        "--held-out",
        type=float,
        default=0.1,
        help="share of the clips for validation and again for test, if no name states the split (default: %(default)s)",
    )
    for role in ROLES:
        add(f"--{role}-column", default=role, help="column of your own tables (default: %(default)s)")


def read(options) -> Corpus:
    check_held_out(options.held_out)
    root = options.audio or (options.folder.parent if options.folder.is_file() else options.folder)
    finder = _Finder(need(root, "the folder of the audio"))
    corpus = Corpus(options.name or "", (PHRASINGS[options.thinking],))
    published: list[tuple[int, int]] = []  # index of the correct choice, and the number of choices
    for file in _tables(options.folder):
        layout, rows = _recognised(file, options)
        if layout is None:
            corpus.notes.append(f"{file} is not a table of multiple-choice questions. It is left out")
            continue
        corpus.data_source = corpus.data_source or layout.name
        for number, (place, row) in enumerate(rows):
            id = f"{file.name} {number}"
            try:
                if isinstance(row, str):
                    raise ValueError(row)
                id = text_of(row.get(layout.id), "id") or id
                cells = _cells(row, layout)
                id = text_of(cells["id"], "id") or id
                item, right = _item(cells, id, file, number, place, layout, finder, options)
            except ValueError as error:
                corpus.add(Rejected(id, place, str(error)))
            else:
                corpus.add(item)
                published.append((right, len(item.choices)))
    if not corpus.items and not corpus.rejected:
        columns = "; ".join(f"{layout.name}: {', '.join(layout.needed)}" for layout in LAYOUTS)
        raise ValueError(
            f"{options.folder}: no table ({', '.join(SUFFIXES)}) has the columns of a known layout ({columns}), or those that "
            "--audio-column and the other options name"
        )
    written = [(ord(item.answers[0]) - ord("A"), len(item.choices)) for item in corpus.items]
    corpus.facts["right_letters"] = {"published": _shares(published), "written": _shares(written)}
    corpus.notes += [_bias("as published", published), _bias("as written", written)]
    return corpus


def _tables(path: Path) -> list[Path]:
    """Return the tables in a folder, or the table that the path names."""
    need(path, "the data set's folder, or a table", "file" if path.is_file() else "folder")
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    tables = [file for file in files if file.is_file()]
    if not tables:
        raise ValueError(f"{path} contains no table ({', '.join(SUFFIXES)})")
    return tables


def _recognised(file: Path, options) -> tuple[Layout | None, Iterator[tuple[str, dict | str]]]:
    """Return a table's layout, recognised by its first row, or None; and its rows."""
    columns = {role: getattr(options, f"{role}_column") for role in ROLES}
    of_options = Layout(options.name or file.stem, **columns)
    rows = table_rows(file, (), (of_options.audio, of_options.choices))
    first = next(rows, None)
    names = first[1] if first is not None and isinstance(first[1], dict) else {}
    layout = next((known for known in LAYOUTS if set(known.needed) <= names.keys()), None)
    if columns != dict(zip(ROLES, ROLES, strict=True)) or layout is None:
        layout = of_options if set(of_options.needed) <= names.keys() else layout
    if layout is None and "\nChoices:\n" in str(names.get("question")) and {"audio", "answer"} <= names.keys():
        layout = AVQA_HUB
    return layout, itertools.chain([first] if first is not None else [], rows)


def _cells(row: Mapping, layout: Layout) -> dict:
    """Return a row's cells by role; ``record`` contains what MMAU's own evaluation needs of the row."""
    cells = {role: row.get(getattr(layout, role)) for role in ROLES}
    if layout is AVQA:
        cells["audio"] = row.get("audio_path") or cells["audio"]  # a column that R1-AQA adds
        cells["question"] = re.sub(r"\bvideo", "audio", text_of(cells["question"], "question"))
        place, choices = cells["answer"], cells["choices"]
        if not isinstance(place, int) or not isinstance(choices, list) or not 0 <= place < len(choices):
            raise ValueError(f"the answer {place!r:.40} is not the index of a choice")
        cells["answer"] = choices[place]
    elif layout is AVQA_HUB:
        question, _, choices = text_of(cells["question"], "question").partition("\nChoices:\n")
        cells |= {"question": re.sub(r"\bvideo", "audio", question), "choices": choices.strip().split("\n")}
    elif layout in (MMAU, MMAU_HUB):
        others = json.loads(row["other_attributes"]) if layout is MMAU_HUB else row
        cells |= {role: others.get(getattr(layout, role)) for role in ("id", "split", "category", "difficulty")}
        texts = {role: cells[role] for role in ("question", "choices", "answer")}
        cells["record"] = json.dumps({**others, **texts}, ensure_ascii=False)
    return cells


def _item(cells: dict, id: str, file: Path, number: int, place: str, layout: Layout, finder: "_Finder", options):
    """Return the item of a row, and the published index of its correct choice."""
    question = text_of(cells["question"], "question")
    choices = cells["choices"] if isinstance(cells["choices"], list) else []
    texts = [" ".join(text_of(choice, "choice").split()) for choice in choices]
    answer = " ".join(text_of(cells["answer"], "answer").split())
    if not question or not answer:
        raise ValueError(f"it has no {'answer' if question else 'question'}")
    if any(PLACEHOLDER in text for text in (question, *texts)):
        raise ValueError(f"a text contains {PLACEHOLDER}, which stands for audio")
    right = texts.index(answer) if texts.count(answer) == 1 else right_choice([answer], texts)
    letters = [match[1] if (match := LETTERED.match(text)) else "" for text in texts]
    if letters == list(ascii_uppercase[: len(texts)]):
        texts = [LETTERED.sub("", text, count=1) for text in texts]
    order = ordered(texts, id, options.seed)
    letter = [letter for letter, text in zip(ascii_uppercase, order, strict=False) if text == texts[right]]
    answers = (*letter, texts[right])
    right_choice(answers, order)  # fails now if the reward would fail
    if (audio := embedded_audio(cells["audio"], file, number, layout.audio)) is None:
        clip = audio_path(cells["audio"])
        audio = finder.find(clip, file.parent)
    else:
        clip = f"{file.name} {number}"
    split = _split(text_of(cells["split"], "split"), file) or hashed_split(clip, options.held_out)
    item = Item(
        id,
        split,
        ((audio,),),
        answers,
        question,
        source=place,
        data_source=options.name or layout.name,
        choices=tuple(order),
        category=text_of(_first(cells["category"]), "category"),
        difficulty=text_of(_first(cells["difficulty"]), "difficulty"),
        record=cells.get("record", ""),
    )
    return item, right


def ordered(choices: Sequence[str], id: str, seed: str = "0") -> list[str]:
    """Return choices in an order that depends only on a row's id and the seed."""
    return sorted(choices, key=lambda choice: (fraction(f"{seed}\n{id}\n{choice}"), choice))


def _first(cell):
    """Return a cell's value, or the value in a list of one: some of MMAU's categories are such lists."""
    return cell[0] if isinstance(cell, list) and len(cell) == 1 else cell


def _split(name: str, file: Path) -> str:
    """Return the split that a row's cell or its file's name states, or an empty string."""
    match = SPLIT.match(name.lower()) or SPLIT.search(file.stem.lower())
    return SPLITS[match[1]] if match else ""


class _Finder:
    """A search for audio files by path, or by name anywhere in a folder, whose files are listed when first needed."""

    def __init__(self, root: Path):
        self.root = root
        self._files: dict[str, list[Path]] | None = None

    def find(self, name: str, folder: Path) -> Segment:
        """Return the segment of a path in the audio's or the table's folder, or of a file name with or without suffix.

        Raises:
            ValueError: no file, or more than one, has this name.
        """
        for start in (self.root, folder):
            path = absolute_audio(name, str(start))
            if path.startswith("data:") or os.path.isfile(path):
                return Segment(path)
        if self._files is None:
            self._files = {}
            for file in sorted(self.root.rglob("*")):
                if file.suffix and file.suffix.lower() not in SUFFIXES and not file.name.startswith("."):
                    self._files.setdefault(_stem(file.name), []).append(file)
        files = self._files.get(_stem(name), [])
        files = [file for file in files if file.suffix.lower() in SOUND] or files
        if len(files) != 1:
            several = f"{len(files)} files have this name below" if files else "no such file below"
            raise ValueError(f"{name}: {several} {self.root}")
        return Segment(str(files[0]))


def _stem(name: str) -> str:
    """Return a name without folder and suffix, and without leading zeros in the final number, which AVQA's files may lack."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    root, suffix = os.path.splitext(base)
    return re.sub(r"_0+(?=\d+$)", "_", root if suffix.lower() in (*SOUND, ".mp4", ".mkv", ".webm") else base)


def _shares(places: Sequence[tuple[int, int]]) -> dict[str, float]:
    counts = Counter(place for place, _ in places)
    return {letter_of(place): counts[place] / len(places) for place in range(max((n for _, n in places), default=0))}


def _bias(what: str, places: Sequence[tuple[int, int]]) -> str:
    """Return a sentence on how often the correct choice has each letter, and what a fixed letter would score."""
    from scipy.stats import chisquare  # imported here, so that --help stays fast

    shares = _shares(places)
    if not shares:
        return f"correct answers {what}: none"
    chance = sum(1 / count for _, count in places) / len(places)
    expected = [sum(1 / count for _, count in places if place < count) for place in range(len(shares))]
    p = float(chisquare([share * len(places) for share in shares.values()], expected).pvalue)
    listed = ", ".join(f"{letter} {100 * share:.1f} %" for letter, share in shares.items())
    return (
        f"correct answers {what}: {listed}. Always naming one letter scores up to {100 * max(shares.values()):.1f} %; chance is "
        f"{100 * chance:.1f} % (chi-square p = {p:.2g})"
    )
