"""``verl-leaf data``: what a prepared file holds, and whether the trainer could use every row."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet
from rich.console import Console
from rich.progress import track
from rich.table import Table

from verl_leaf.prepare.convert import RATE
from verl_leaf.prepare.report import histogram
from verl_leaf.speech.audio import load_audio
from verl_leaf.speech.rows import absolute_audio, check_columns, check_row

SAMPLE = 100  # rows that --fast looks at
SHOWN = 3
MAX_ERRORS = 20


def show(file: Path, model: str | None, max_prompt_length: int, fast: bool) -> int:
    """Print columns, counts, lengths and a few rows, and check rows as :class:`SpeechDataset` does.

    Args:
        file: veRL parquet file.
        model: of whose processor the lengths of prompts and clips are checked, too; not if None.
        max_prompt_length: the most tokens of a prompt, as ``data.max_prompt_length``.
        fast: look at ``SAMPLE`` rows spread over the file instead of all.

    Returns:
        0, or 1 if a row cannot be used.

    Raises:
        ValueError: the file is not there, lacks columns, or holds a row that does not fit the model.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    console = Console()
    table = pyarrow.parquet.ParquetFile(file)
    check_columns(str(file), table.schema_arrow.names)
    console.print(f"{file}: {table.metadata.num_rows} rows, {file.stat().st_size / 1e6:.1f} MB", markup=False)
    for column in table.schema_arrow:
        console.print(f"  {column.name}: {column.type}", markup=False)
    rows = pyarrow.parquet.read_table(file, memory_map=True)
    numbers = range(0, len(rows), max(1, len(rows) // SAMPLE) if fast else 1)
    seconds, words, errors = [], [], []

    def look(number: int):
        row = rows.slice(number, 1).to_pylist()[0]
        try:
            return row, _seconds(row, file.resolve().parent)
        except ValueError as error:
            return row, error

    with ThreadPoolExecutor() as pool:
        results = pool.map(look, numbers)
        for number, (row, result) in zip(
            numbers, track(results, "Checking", len(numbers), console=console), strict=True
        ):
            if isinstance(result, ValueError):
                errors.append(f"row {number}: {result}")
                continue
            seconds.append(result)
            answers = row["reward_model"]["ground_truth"]
            words.append(len(str(answers if isinstance(answers, str) else answers[0]).split()))
            if len(seconds) <= SHOWN:
                _show_row(console, number, row)
    if seconds:
        lengths = Table("rows looked at", "hours", "seconds of audio", "words of an answer")
        lengths.add_row(str(len(seconds)), f"{sum(seconds) / 3600:.2f}", histogram(seconds), histogram(words))
        console.print(lengths)
    for error in errors[:MAX_ERRORS]:
        console.print(error, style="red", markup=False)
    if errors:
        console.print(f"{len(errors)} of {len(numbers)} rows cannot be used", style="red")
        return 1
    if model is not None:
        _check_with(model, file, max_prompt_length)
    console.print(f"All {len(numbers)} rows that were looked at can be used")
    return 0


def _seconds(row: dict, root: Path) -> float:
    """Seconds of a row's audio.

    Raises:
        ValueError: the row cannot be used.
    """
    check_row(row)
    return sum(len(load_audio(absolute_audio(audio, str(root)), RATE)) / RATE for audio in row["audios"])


def _show_row(console: Console, number: int, row: dict) -> None:
    prompt = " / ".join(str(message["content"]) for message in row["prompt"])
    answer = row["reward_model"]["ground_truth"]
    console.print(f"row {number} [{row['data_source']}] {prompt!r:.200} -> {answer!r:.200}", markup=False)


def _check_with(model: str, file: Path, max_prompt_length: int) -> None:
    from omegaconf import OmegaConf
    from verl.utils import hf_processor

    from verl_leaf.checks.model import check_speech_model
    from verl_leaf.speech.dataset import SpeechDataset

    check_speech_model(model)
    processor = hf_processor(os.path.expanduser(model))
    SpeechDataset(str(file), processor.tokenizer, OmegaConf.create({"max_prompt_length": max_prompt_length}), processor)
