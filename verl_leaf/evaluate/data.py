"""The rows to answer: their texts are kept in memory, and their audio is decoded when needed."""

import copy
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from verl.utils import hf_processor
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_leaf.common.answers import Row
from verl_leaf.common.errors import errors_at
from verl_leaf.common.files import file_digest
from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.data.choices import right_choice, row_choices
from verl_leaf.data.options import DEFAULT_KEYS as KEYS
from verl_leaf.data.parquet import RowFile, in_order
from verl_leaf.data.references import contents
from verl_leaf.data.rows import check_columns, reference_texts, spoken_row
from verl_leaf.models import family_of_processor
from verl_leaf.runs.swap import MAX_SHIFTS
from verl_leaf.speech.prompt import render_prompt, render_text

DATA_CONFIG = {"long_audio": "cut"}  # clips are cut to the length that the model hears; the log counts them
THREADS = 8  # that prepare prompts while the engine generates


@dataclass(frozen=True)
class Prompt:
    """A row as a request to vLLM."""

    row: int
    request: dict  # token ids with one placeholder per clip, and the waveforms
    cut: bool  # True if a clip was longer than the model can hear


NO_AUDIO, WRONG_AUDIO = CONTROLS = ("no audio", "wrong audio")


class Data:
    """The rows of a parquet file.

    Attributes:
        control: one of ``CONTROLS``, or empty for the rows' own prompts.

    Raises:
        ValueError: the file cannot be read, or a row lacks something. The message names file, row and reason.
    """

    def __init__(self, path: Path):
        self.path, self.control = path, ""
        self._heard: dict[int, int] = {}  # row -> row whose audio it gets as the wrong one
        self._file = RowFile(path)
        check_columns(self._file.path, self._file.columns)
        self._root = os.path.dirname(os.path.abspath(path))
        self._columns = ("data_source", "prompt", "audios", "images", "videos", "reward_model", "extra_info")
        self.splits: set[str] = set()  # splits that the rows name
        self._messages: list[list[dict]] = []  # messages of each row, without audio data
        self.rows = [self._row(number, row) for number, row in self._file.rows(columns=self._columns)]

    def _row(self, number: int, raw: dict) -> Row:
        with errors_at(f"{self.path}, row {number}"):
            row = spoken_row(raw, self._root)
            references = reference_texts(row["reward_model"]["ground_truth"])
            extra = row.get("extra_info") or {}
            if choices := row_choices(extra):
                right_choice(references, choices)
        self.splits.add(str(extra.get("split")))
        question = "\n".join(message["content"].replace(PLACEHOLDER, "").strip() for message in row["prompt"])
        question = question.strip() or str(extra.get("question") or "")  # a prompt may consist of audio only
        audio = tuple(_name(reference, self._root) for reference in row["audios"])
        self._messages.append(_parts(row | {"audios": [None] * len(audio)}))
        groups = (str(extra.get(name) or "") for name in ("category", "difficulty"))
        return Row(number, row["data_source"], question, tuple(references), audio, choices, *groups)

    def digest(self) -> str:
        """Return the SHA-256 of the file; audio files that it names are not included."""
        return file_digest(self.path)

    def with_control(self, control: str) -> "Data":
        """Return the same rows with prompts without audio, or with another row's audio."""
        other = copy.copy(self)
        other.control, other._heard = control, _other_clips(self.rows)
        return other

    def check_prompts(self, model: Path) -> None:
        """Raise ValueError unless a model reads every prompt as it is written."""
        processor = hf_processor(str(model))
        for number, messages in enumerate(self._messages):
            with errors_at(f"{self.path}, row {number}"):
                render_text(processor, messages, {})

    def messages(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[dict]]]:
        """Yield rows, in ascending order, with their chat messages, which have a part for each clip."""
        for number, raw in self._file.rows(sorted(numbers), self._columns):
            yield number, _parts(spoken_row(raw, self._root))

    def prompts(self, numbers: Iterable[int], processor) -> Iterator[tuple[int, Prompt | ValueError]]:
        """Yield rows, in the order of their audio in the file, with their prompts or errors; threads decode ahead."""
        family = family_of_processor(processor)

        def prompt(item: tuple[int, list[dict] | None]) -> tuple[int, Prompt | ValueError]:
            number, messages = item
            if messages is None:
                return number, ValueError("no other row has the same number of clips and different ones")
            try:
                text, clips, cut = render_prompt(processor, messages, DATA_CONFIG)
                family.prompt_length(processor, text, [len(clip) for clip in clips])  # checks the number of clips
            except ValueError as error:
                return number, error
            request: dict = {"prompt_token_ids": processor.tokenizer(text)["input_ids"]}
            return number, Prompt(number, request | {"multi_modal_data": {"audio": clips}} if clips else request, cut)

        with ThreadPoolExecutor(THREADS) as pool:
            yield from in_order(pool, prompt, self._asked(numbers), 2 * THREADS)

    def _asked(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[dict] | None]]:
        """Yield rows with their messages, or a control's; None if there is no other audio."""
        if not self.control:
            yield from self.messages(numbers)
        elif self.control == NO_AUDIO:
            for number in numbers:
                yield (
                    number,
                    [message | {"content": _without_audio(message["content"])} for message in self._messages[number]],
                )
        else:
            listeners: dict[int, list[int]] = {}
            for number in numbers:
                if number in self._heard:
                    listeners.setdefault(self._heard[number], []).append(number)
                else:
                    yield number, None
            for other, messages in self.messages(listeners):
                for number in listeners[other]:
                    yield number, _with_audio(self._messages[number], messages)


def _with_audio(messages: list[dict], others: list[dict]) -> list[dict]:
    """Return messages with the audio of others in place of their own."""
    clips = iter([part["audio"] for message in others for part in message["content"] if _is_audio(part)])
    return [
        message
        if isinstance(message["content"], str)
        else message
        | {"content": [part | {"audio": next(clips)} if _is_audio(part) else part for part in message["content"]]}
        for message in messages
    ]


def _is_audio(part) -> bool:
    return isinstance(part, dict) and part["type"] == "audio"


def _without_audio(content):
    if isinstance(content, str):
        return content
    return [part for part in content if not _is_audio(part)]


def _other_clips(rows: list[Row]) -> dict[int, int]:
    """Return for each row with audio the row whose audio it gets as a control: the same number of clips, but other clips.

    Of several shifts, it is the one after which the fewest rows have their own clip or one with the same correct answer.
    """
    by_count: dict[int, list[Row]] = {}
    for row in rows:
        by_count.setdefault(len(row.audio), []).append(row)
    others: dict[int, int] = {}
    for count, alike in by_count.items():
        shifts = [alike[shift:] + alike[:shift] for shift in range(1, min(len(alike), MAX_SHIFTS + 1)) if count]
        if shifts:
            best = min(shifts, key=lambda moved: sum(map(_revealed, alike, moved)))
            others |= {a.row: b.row for a, b in zip(alike, best, strict=True) if a.audio != b.audio}
    return others


def _revealed(row: Row, other: Row) -> float:
    """Return how much another row's audio reveals a row's answer: 1 for the same clip, 0.1 for the same correct answer."""
    return 1.0 if row.audio == other.audio else 0.1 * (row.references[-1] == other.references[-1])


def _parts(row: dict) -> list[dict]:
    """Return a row's messages split into parts by the method of verl's dataset, as in training."""
    keys = SimpleNamespace(image_key=KEYS.image, video_key=KEYS.video, audio_key=KEYS.audio, processor=True)
    return RLHFDataset._build_messages(cast(RLHFDataset, keys), row, KEYS.prompt)


def _name(reference, root: str) -> str:
    """Return a name that identifies a clip: its path, relative to the file's folder if it is inside, or a digest."""
    data, path = contents(reference)
    if path is None:
        return hashlib.sha256(data or repr(reference).encode()).hexdigest()[:16]  # repr for a decoded array
    inside = os.path.relpath(path, root)
    return path if inside.startswith("..") else inside
