"""What a corpus hands on to be written, and how it finds its files."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
PLACEHOLDER = "<audio>"


@dataclass(frozen=True)
class Segment:
    """A stretch of a file, or all of it."""

    path: str
    start: float = 0.0  # seconds
    seconds: float | None = None  # to the end, if None
    row: int | None = None  # of a parquet file with the column `audio`


@dataclass(frozen=True)
class Item:
    """A row to be: each audio is one segment, or several to be joined."""

    id: str
    split: str
    audios: tuple[tuple[Segment, ...], ...]
    answers: tuple[str, ...]
    question: str = ""  # empty where the task is the same for all rows
    phrase_by: str = ""  # its hash chooses the phrasing; the question if empty
    source: str = ""  # file and row that it comes from


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

    def add(self, item: Item | Rejected) -> None:
        (self.items if isinstance(item, Item) else self.rejected).append(item)


def fraction(text: str) -> float:
    """A stable hash of a text, in [0, 1): the first 8 hexadecimal digits of its md5."""
    return _digits(text) / 16**8


def choose(phrasings: tuple[str, ...], text: str) -> str:
    """One of several phrasings, by a stable hash of a text."""
    return phrasings[_digits(text) % len(phrasings)]


def _digits(text: str) -> int:
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8], 16)


def need(path: Path, what: str) -> Path:
    """The path, if it is there.

    Raises:
        ValueError: it is not.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; it should be {what}")
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
        for path in (folder / name, folder / inner / name):
            if path.exists():
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
