"""Command ``verl-leaf data``: summarise a parquet file, and check whether the trainer could use every row."""

import os
from pathlib import Path

from verl_leaf.common.console import Console
from verl_leaf.common.files import is_inside
from verl_leaf.common.tables import show
from verl_leaf.data.audio import load_audio, unheard
from verl_leaf.data.options import Keys
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.references import audio_name, contents
from verl_leaf.data.rows import check_columns, reference_texts, spoken_row
from verl_leaf.prepare.convert import RATE
from verl_leaf.prepare.report import histogram

SAMPLE = 100  # rows that --fast checks
SHOWN = 3
MAX_LINES = 20


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("file", type=Path, help="parquet file to check")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--model", help="also check the lengths of prompts and clips for this model")
    how.add_argument("--fast", action="store_true", help=f"check {SAMPLE} rows spread over the file instead of all")
    add("--max-prompt-length", type=int, default=1024, help="limit in tokens with --model (default: %(default)s)")
    for name, column in (("prompt", "prompt"), ("audio", "audios")):
        add(f"--{name}-key", default=column, help=f"value of data.{name}_key (default: %(default)s)")


def main(options) -> int:
    """Print columns, counts, lengths and a few rows, and check rows as :class:`SpeechDataset` does.

    References are also checked as for the rewards of ``verl_leaf.rewards``. Return 1 if a row cannot be used.
    """
    file, console = options.file, Console()
    keys = Keys(prompt=options.prompt_key, audio=options.audio_key)
    rows = RowFile(file)
    check_columns(rows.path, rows.columns, keys)
    console.print(f"{file}: {len(rows)} rows, {file.stat().st_size / 1e6:.1f} MB")
    for column in rows.schema:
        console.print(f"  {column.name}: {column.type}")
    numbers = range(0, len(rows), max(1, len(rows) // SAMPLE) if options.fast else 1)
    errors = _look(console, rows, numbers, keys)
    _say(console, errors, "red", "rows cannot be used", numbers)
    if errors:
        return 1
    if options.model is not None:
        _check_with(options.model, file, options.max_prompt_length, keys)
    console.print(f"All {len(numbers)} checked rows can be used")
    return 0


def _look(console: Console, rows: RowFile, numbers: range, keys: Keys) -> list[str]:
    """Print a few rows, all lengths, unheard clips and the folders of audio; return a line for each row that is wrong."""
    root = os.path.dirname(os.path.abspath(rows.path))

    def measures(row: dict) -> tuple[float, int, list[str], set[str]]:
        row.update(spoken_row(row, root, keys))
        words = len(reference_texts(row["reward_model"]["ground_truth"])[0].split())
        clips = [(audio_name(audio), load_audio(audio, RATE)) for audio in row[keys.audio]]
        unheards = [f"{name}: {reason}" for name, clip in clips if (reason := unheard(clip, RATE))]
        files = (file for _, file in map(contents, row[keys.audio]) if file and not is_inside(file, Path(root)))
        return sum(len(clip) / RATE for _, clip in clips), words, unheards, set(map(os.path.dirname, files))

    columns = ("data_source", "reward_model", "extra_info", keys.prompt, keys.audio, keys.image, keys.video)
    seconds, words, silent, errors, outside = [], [], [], [], set()
    for number, row, result in rows.map(measures, "Checking", numbers, columns, console):
        place = f"{rows.path}, row {number}: "
        if isinstance(result, ValueError):
            errors.append(f"{place}{result}")
            continue
        seconds.append(result[0])
        words.append(result[1])
        outside |= result[3]
        if result[2]:
            silent.append(place + "; ".join(result[2]))
        if len(seconds) <= SHOWN:
            _show_row(console, number, row, keys)
    if seconds:
        headings = ("rows checked", "hours", "seconds of audio", "silent", "words of an answer")
        hours = f"{sum(seconds) / 3600:.2f}"
        measured = (str(len(seconds)), hours, histogram(seconds), str(len(silent)), histogram(words))
        show("", headings, [measured], words=0, console=console)
    if outside:
        first = ", ".join(sorted(outside)[:SHOWN])
        console.print(f"Some audio is not in the file's folder, but in {first}: every node must have it there")
    _say(console, silent, "yellow", "rows have a clip in which nothing can be heard. A run would use them", numbers)
    return errors


def _say(console: Console, lines: list[str], style: str, what: str, numbers: range) -> None:
    """Print the first lines, and their number."""
    for line in lines[:MAX_LINES]:
        console.print(line, style=style)
    if lines:
        console.print(f"{len(lines)} of {len(numbers)} {what}", style=style)


def _show_row(console: Console, number: int, row: dict, keys: Keys) -> None:
    prompt = " / ".join(message["content"] for message in row[keys.prompt])
    answer = row["reward_model"]["ground_truth"]
    console.print(f"row {number} [{row['data_source']}] {prompt!r:.200} -> {answer!r:.200}")


def _check_with(model: str, file: Path, max_prompt_length: int, keys: Keys) -> None:
    from omegaconf import OmegaConf
    from verl.utils import hf_processor

    from verl_leaf.checks.model import check_speech_model
    from verl_leaf.speech.dataset import SpeechDataset

    check_speech_model(model)
    processor = hf_processor(os.path.expanduser(model))
    config = {"max_prompt_length": max_prompt_length, "prompt_key": keys.prompt, "audio_key": keys.audio}
    SpeechDataset(str(file), processor.tokenizer, OmegaConf.create(config), processor)
