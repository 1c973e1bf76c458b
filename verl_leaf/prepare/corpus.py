"""The rows of a corpus, and helpers to find its files."""

import hashlib
import math
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Segment:
    """A part of an audio file, or all of it; or a whole audio in a parquet file or a ``data:`` URI."""

    path: str  # path, or the URI
    start: float = 0.0  # seconds
    seconds: float | None = None  # None for the part up to the end
    row: int | None = None  # row of the parquet file ``path``
    column: str = "audio"
    part: int | None = None  # index in the cell, if it is a list of audios


@dataclass(frozen=True)
class Item:
    """A row to write. Each audio consists of one or more segments, which are joined."""

    id: str
    split: str
    audios: tuple[tuple[Segment, ...], ...]
    answers: tuple[str, ...]
    question: str = ""  # empty if the task is the same for all rows
    prompt: str = ""  # whole prompt; empty to use one of the phrasings
    phrase_by: str = ""  # text whose hash chooses the phrasing; empty for the question
    source: str = ""  # its file and row
    numbered: bool = False  # True if the id is only the row's number
    data_source: str = ""  # empty for the corpus's data source
    choices: tuple[str, ...] = ()  # in the order of their letters
    category: str = ""
    difficulty: str = ""
    record: str = ""  # JSON of the row as published, if a benchmark's own evaluation needs it


@dataclass(frozen=True)
class Rejected:
    """A row that is left out."""

    id: str
    source: str
    reason: str


@dataclass
class Corpus:
    """The rows of a corpus, and how they are written."""

    data_source: str
    phrasings: tuple[str, ...]  # a hash chooses one; they contain {question} if items have questions
    items: list[Item] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    max_seconds: float | None = None  # longer audio is left out
    one_phrasing: tuple[str, ...] = ()  # splits that only get the first phrasing
    facts: dict[str, Any] = field(default_factory=dict)  # further content of the report
    notes: list[str] = field(default_factory=list)  # lines below the report's table
    _sources: dict[tuple, str] = field(default_factory=dict, init=False, repr=False)  # content of a row -> its source

    def add(self, item: Item | Rejected) -> None:
        """Add a row. A duplicate of an earlier row, with the same content and id, is left out."""
        if isinstance(item, Item):
            content = (None if item.numbered else item.id, item.audios, item.question, item.answers, item.choices)
            if content not in self._sources:
                self._sources[content] = item.source
                self.items.append(item)
                return
            item = Rejected(item.id, item.source, f"it is a duplicate of {self._sources[content]}")
        self.rejected.append(item)


def fraction(text: str) -> float:
    """Return a stable hash of a text in [0, 1): the first 8 hexadecimal digits of its md5."""
    return _digits(text) / 16**8


def hashed_split(text: str, share: float) -> str:
    """Return the split that a hash of a text chooses: one share is for test, and another for validation."""
    place = fraction(text)
    return TEST if place < share else VALIDATION if place < 2 * share else TRAIN


def choose(phrasings: tuple[str, ...], text: str) -> str:
    """Return one of several phrasings, chosen by a stable hash of a text."""
    return phrasings[_digits(text) % len(phrasings)]


def _digits(text: str) -> int:
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8], 16)


def text_of(value, what: str) -> str:
    """Return a cell's text without white space around it; empty for null and NaN.

    Raises:
        ValueError: the cell is neither text nor a number. The message names ``what`` and the type, but not the value,
            which may be audio.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"the {what} is of the type {type(value).__name__}, not a text or a number")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {what} contains half a surrogate pair, which is not a character") from None
    return text


def need(path: Path, what: str, kind: str = "folder") -> Path:
    """Return the path of an existing folder, or of a file if ``kind`` is "file"."""
    if not path.exists():
        raise ValueError(f"{path} does not exist. It should be {what}")
    if not (path.is_file() if kind == "file" else path.is_dir()):
        raise ValueError(f"{path} is not a {kind}. It should be {what}")
    return path


def question_file(folder: Path | None, name: str, repository: str, inner: str) -> Path:
    """Return a question file in ``folder`` or its folder ``inner``, or from the hub's data set if no folder is given.

    Raises:
        ValueError: the file is missing, or the hub cannot be reached.
    """
    if folder is not None:
        need(folder, f"the folder of {name}")
        for path in (folder / name, folder / inner / name):
            if path.is_file():
                return path
        raise ValueError(f"{folder} has no {name}, nor {inner}/{name}. Get it from the hub's data set {repository}")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, f"{inner}/{name}", repo_type="dataset"))
    except Exception as error:
        raise ValueError(
            f"{inner}/{name} of {repository} cannot be loaded from the Hugging Face hub ({type(error).__name__}). Get it "
            "elsewhere, and give its folder with --questions"
        ) from error
