"""The rows to answer: what scoring needs of all of them in memory, their audio decoded when its turn comes."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from verl.utils import hf_processor
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_leaf.common.answers import Row
from verl_leaf.common.console import Console
from verl_leaf.common.files import file_digest
from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.data.options import DEFAULT_KEYS as KEYS
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.references import contents
from verl_leaf.data.rows import check_columns, reference_texts, spoken_row
from verl_leaf.models import family_of_processor
from verl_leaf.speech.prompt import render_prompt, render_text

DATA_CONFIG = {"long_audio": "cut"}  # what a model cannot hear it cannot be asked about; the log says how often


@dataclass(frozen=True)
class Prompt:
    """A row as vLLM takes it.

    Attributes:
        row: its number.
        request: token ids with one placeholder per clip, and the waveforms.
        cut: whether a clip was longer than the model hears.
    """

    row: int
    request: dict
    cut: bool


class Data:
    """A parquet file of rows.

    Args:
        path: of the file.

    Raises:
        ValueError: it cannot be read, or a row has not what it needs; file, row and reason are named.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = RowFile(path)
        check_columns(self._file.path, self._file.columns)
        self._root = os.path.dirname(os.path.abspath(path))
        self._columns = ("data_source", "prompt", "audios", "images", "videos", "reward_model", "extra_info")
        self.splits: set[str] = set()  # that the rows say they belong to
        self._messages: list[list[dict]] = []  # of each row, without the audio of its clips
        self.rows = [self._row(number, row) for number, row in self._file.rows(columns=self._columns)]

    def _row(self, number: int, raw: dict) -> Row:
        try:
            row = spoken_row(raw, self._root)
            references = reference_texts(row["reward_model"]["ground_truth"])
        except ValueError as error:
            raise ValueError(f"{self.path}, row {number}: {error}") from error
        extra = row.get("extra_info") or {}
        self.splits.add(str(extra.get("split")))
        question = "\n".join(message["content"].replace(PLACEHOLDER, "").strip() for message in row["prompt"])
        question = question.strip() or str(extra.get("question") or "")  # a prompt may be spoken alone
        audio = tuple(_name(reference, self._root) for reference in row["audios"])
        self._messages.append(_parts(row | {"audios": [None] * len(audio)}))
        return Row(number, row["data_source"], question, tuple(references), audio)

    def digest(self) -> str:
        """SHA-256 of the file; of audio that it names by path, not the content."""
        return file_digest(self.path)

    def check_prompts(self, model: Path) -> None:
        """Stop unless a model reads every prompt as it is written.

        Raises:
            ValueError: a text holds the tokenizer's special tokens, or the chat template cannot give it; the row is named.
        """
        processor = hf_processor(str(model))
        for number, messages in enumerate(self._messages):
            try:
                render_text(processor, messages, {})
            except ValueError as error:
                raise ValueError(f"{self.path}, row {number}: {error}") from error

    def prompts(self, numbers: Sequence[int], processor) -> Iterator[tuple[int, Prompt | ValueError]]:
        """Render rows and decode their audio, in threads, a few rows ahead.

        Args:
            numbers: which rows, in ascending order.
            processor: Hugging Face processor of a supported family.

        Yields:
            The number of each, and its prompt or why there is none.
        """
        family = family_of_processor(processor)

        def prompt(raw: dict) -> tuple[dict, bool]:
            row = spoken_row(raw, self._root)
            text, clips, cut = render_prompt(processor, _parts(row), DATA_CONFIG)
            family.prompt_length(processor, text, [len(clip) for clip in clips])  # stops where clips are too many
            request: dict = {"prompt_token_ids": processor.tokenizer(text)["input_ids"]}
            return (request | {"multi_modal_data": {"audio": clips}} if clips else request), cut

        quiet = Console(quiet=True)  # whoever takes the prompts shows the progress
        for number, _, result in self._file.map(prompt, "", numbers, self._columns, quiet):
            yield number, result if isinstance(result, ValueError) else Prompt(number, *result)

    def messages(self, number: int) -> list[dict]:
        """The chat messages of a row, with a part for each clip."""
        ((_, row),) = self._file.rows([number], self._columns)
        return _parts(spoken_row(row, self._root))


def _parts(row: dict) -> list[dict]:
    """Messages whose content is parts: as in training, by the method of verl's dataset."""
    keys = SimpleNamespace(image_key=KEYS.image, video_key=KEYS.video, audio_key=KEYS.audio, processor=True)
    return RLHFDataset._build_messages(cast(RLHFDataset, keys), row, KEYS.prompt)


def _name(reference, root: str) -> str:
    """What clips are told apart by: their path, from the file's folder where they are in it, or a digest."""
    data, path = contents(reference)
    if path is None:
        return hashlib.sha256(data or repr(reference).encode()).hexdigest()[:16]  # the latter of a decoded array
    inside = os.path.relpath(path, root)
    return path if inside.startswith("..") else inside
