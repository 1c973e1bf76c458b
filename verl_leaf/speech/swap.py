"""The control that shows whether a model listens: the same questions with other rows' audio."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import sacrebleu

from verl_leaf.speech.names import SWAPPED_AUDIO_SUFFIX
from verl_leaf.speech.rows import absolute_audio

MAX_ROWS = 256  # enough to see a collapse, and at most that much more to validate
MAX_SHIFTS = 16


def write_swapped(source: Path, destination: Path) -> Path:
    """Write validation rows in which every row has the audio of another.

    Audio moves by one shift over all rows, the one of ``MAX_SHIFTS`` whose rows share the fewest words of the reference.

    Args:
        source: veRL parquet file with the columns ``data_source``, ``audios`` and ``reward_model``.
        destination: parquet file to write; its ``data_source`` gets the suffix ``_swapped_audio``.

    Returns:
        ``destination``.

    Raises:
        ValueError: the file has fewer than 2 rows or lacks a column.
    """
    table = pyarrow.parquet.read_table(source).slice(0, MAX_ROWS)
    missing = [name for name in ("data_source", "audios", "reward_model") if name not in table.column_names]
    if missing:
        raise ValueError(f"{source}: no column {', '.join(map(repr, missing))}; it has {', '.join(table.column_names)}")
    rows = table.to_pylist()
    if len(rows) < 2:
        raise ValueError(f"{source}: has {len(rows)} row(s); audio can be swapped between 2 or more")
    references = [str(row["reward_model"]["ground_truth"]) for row in rows]
    shifts = range(1, min(len(rows), MAX_SHIFTS + 1))
    best = min(shifts, key=lambda shift: _overlap(references, references[shift:] + references[:shift]))
    audios = [row["audios"] for row in rows]
    root = str(source.resolve().parent)
    for row, audio in zip(rows, audios[best:] + audios[:best], strict=True):
        row["audios"] = [absolute_audio(reference, root) for reference in audio]
        row["data_source"] += SWAPPED_AUDIO_SUFFIX
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), destination)
    return destination


def _overlap(references: list[str], others: list[str]) -> float:
    return sacrebleu.corpus_bleu(others, [references]).score
