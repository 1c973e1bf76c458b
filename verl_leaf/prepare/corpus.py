"""What a corpus hands on to be written, and how it finds its files."""

import hashlib
import math
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Segment:
    """A stretch of a file, or all of it; or a whole audio that is stored in a parquet file or is a ``data:`` URI."""

    path: str  # or the URI
    start: float = 0.0  # seconds
    seconds: float | None = None  # to the end, if None
    row: int | None = None  # of the parquet file ``path``
    column: str = "audio"
    part: int | None = None  # where the column holds a list of audios


@dataclass(frozen=True)
class Item:
    """A row to be: each audio is one segment, or several to be joined."""

    id: str
    split: str
    audios: tuple[tuple[Segment, ...], ...]
    answers: tuple[str, ...]
    question: str = ""  # empty where the task is the same for all rows
    prompt: str = ""  # its own whole prompt; one of the phrasings if empty
    phrase_by: str = ""  # its hash chooses the phrasing; the question if empty
    source: str = ""  # file and row that it comes from
    numbered: bool = False  # the id is only the row's number
    data_source: str = ""  # its own, where a corpus has several; the corpus's if empty
    choices: tuple[str, ...] = ()  # in the order of their letters
    category: str = ""
    difficulty: str = ""
    record: str = ""  # JSON of the row as published, if a benchmark's own evaluation needs it


@dataclass(frozen=True)
class Rejected:
    """A row left out."""

    id: str
    source: str
    reason: str


@dataclass
class Corpus:
    """Everything that is to be written."""

    data_source: str
    phrasings: tuple[str, ...]  # of which a hash chooses; they hold {question} if items have questions
    items: list[Item] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    max_seconds: float | None = None  # longer audio is left out
    one_phrasing: tuple[str, ...] = ()  # splits that only get the first phrasing
    facts: dict[str, Any] = field(default_factory=dict)  # what else the report says
    notes: list[str] = field(default_factory=list)  # lines below the report's table
    _sources: dict[tuple, str] = field(default_factory=dict, init=False, repr=False)  # of what rows say

    def add(self, item: Item | Rejected) -> None:
        """Take a row; one that says the same as an earlier one, under the same id if it has one, is left out."""
        if isinstance(item, Item):
            content = (None if item.numbered else item.id, item.audios, item.question, item.answers, item.choices)
            if content not in self._sources:
                self._sources[content] = item.source
                self.items.append(item)
                return
            item = Rejected(item.id, item.source, f"says the same as {self._sources[content]}")
        self.rejected.append(item)


def fraction(text: str) -> float:
    """Return a stable hash of a text, in [0, 1): the first 8 hexadecimal digits of its md5."""
    return _digits(text) / 16**8


def choose(phrasings: tuple[str, ...], text: str) -> str:
    """Return one of several phrasings, by a stable hash of a text."""
    return phrasings[_digits(text) % len(phrasings)]


def _digits(text: str) -> int:
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8], 16)


def text_of(value, what: str) -> str:
    """Return a cell's text without white space around it; empty if there is none (null, NaN).

    Raises:
        ValueError: it is neither text nor a number. The message says ``what`` it should be and not what it is: audio.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"the {what} is of the type {type(value).__name__}, not a text or a number")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {what} holds half a surrogate pair, which is no character") from None
    return text


def need(path: Path, what: str, kind: str = "folder") -> Path:
    """Return the path of a folder, or of a file if that is the kind.

    Raises:
        ValueError: there is none; the message tells ``what`` it should be.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; it should be {what}")
    if not (path.is_file() if kind == "file" else path.is_dir()):
        raise ValueError(f"{path} is no {kind}; it should be {what}")
    return path


def question_file(folder: Path | None, name: str, repository: str, inner: str) -> Path:
    """Return a question file in ``folder`` or its folder ``inner``; if no folder is given, that of the hub's data set.

    Raises:
        ValueError: it is not there, or the hub cannot be reached.
    """
    if folder is not None:
        need(folder, f"the folder of {name}")
        for path in (folder / name, folder / inner / name):
            if path.is_file():
                return path
        raise ValueError(f"{folder} has no {name}, nor {inner}/{name}: get it from the hub's data set {repository}")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, f"{inner}/{name}", repo_type="dataset"))
    except Exception as error:
        raise ValueError(
            f"{inner}/{name} of {repository} cannot be had from the Hugging Face hub ({type(error).__name__}); get it "
            "elsewhere and give its folder with --questions"
        ) from error
