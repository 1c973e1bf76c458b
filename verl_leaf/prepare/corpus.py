"""What a corpus hands on to be written, and how it finds its files."""

import hashlib
import math
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

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
    _sources: dict[tuple, str] = field(default_factory=dict, repr=False)

    def add(self, item: Item | Rejected) -> None:
        """Take a row; one that says the same as an earlier one, under the same id if it has one, is left out."""
        if isinstance(item, Item):
            content = (None if item.numbered else item.id, item.audios, item.question, item.answers)
            if content not in self._sources:
                self._sources[content] = item.source
                self.items.append(item)
                return
            item = Rejected(item.id, item.source, f"says the same as {self._sources[content]}")
        self.rejected.append(item)


def fraction(text: str) -> float:
    """A stable hash of a text, in [0, 1): the first 8 hexadecimal digits of its md5."""
    return _digits(text) / 16**8


def choose(phrasings: tuple[str, ...], text: str) -> str:
    """One of several phrasings, by a stable hash of a text."""
    return phrasings[_digits(text) % len(phrasings)]


def _digits(text: str) -> int:
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8], 16)


def text_of(value, what: str) -> str:
    """A cell's text, without white space around it; empty where there is none (null, NaN).

    Args:
        value: a text or a number; none of its content is in the error, for it may be audio.
        what: what the cell should hold, for the error.

    Raises:
        ValueError: it is something else.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    known = isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)
    if not known:
        raise ValueError(f"the {what} is of the type {type(value).__name__}, not a text or a number")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {what} holds half a surrogate pair, which is no character") from None
    return text


def need_file(path: Path, what: str) -> Path:
    """The path, if a file is there.

    Raises:
        ValueError: there is none.
    """
    return _need(path, what, path.is_file(), "file")


def need_folder(path: Path, what: str) -> Path:
    """The path, if a folder is there.

    Raises:
        ValueError: there is none.
    """
    return _need(path, what, path.is_dir(), "folder")


def _need(path: Path, what: str, fits: bool, kind: str) -> Path:
    if not path.exists():
        raise ValueError(f"{path} does not exist; it should be {what}")
    if not fits:
        raise ValueError(f"{path} is no {kind}; it should be {what}")
    return path


def question_file(folder: Path | None, name: str, repository: str, inner: str) -> Path:
    """A question file on disk, below ``folder``, or from the Hugging Face hub where none is given.

    Args:
        folder: where to look, itself or in its folder ``inner``; the hub if None.
        name: of the file.
        repository: data set on the hub that has it.
        inner: folder within the repository.

    Raises:
        ValueError: it is not there, or the hub cannot be reached.
    """
    if folder is not None:
        need_folder(folder, f"the folder of {name}")
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
