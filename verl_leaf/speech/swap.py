"""The control that shows whether a model listens: the same questions with other rows' audio."""

from pathlib import Path

import datasets
import sacrebleu

MAX_ROWS = 256  # enough to see a collapse, and at most that much more to validate
MAX_SHIFTS = 16

SUFFIX = "_swapped_audio"


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
    from verl_leaf.speech.dataset import absolute_audio

    rows = datasets.load_dataset("parquet", data_files=str(source), split="train")
    missing = [name for name in ("data_source", "audios", "reward_model") if name not in rows.column_names]
    if missing:
        raise ValueError(f"{source}: no column {', '.join(map(repr, missing))}; it has {', '.join(rows.column_names)}")
    rows = rows.select(range(min(len(rows), MAX_ROWS)))
    if len(rows) < 2:
        raise ValueError(f"{source}: has {len(rows)} row(s); audio can be swapped between 2 or more")
    references = [str(entry["ground_truth"]) for entry in rows["reward_model"]]
    shifts = range(1, min(len(rows), MAX_SHIFTS + 1))
    best = min(shifts, key=lambda shift: _overlap(references, references[shift:] + references[:shift]))
    audios = rows["audios"][:]
    audios = audios[best:] + audios[:best]
    root = str(source.resolve().parent)
    table = rows.to_list()
    for row, audio in zip(table, audios, strict=True):
        row["audios"] = [absolute_audio(reference, root) for reference in audio]
        row["data_source"] += SUFFIX
    datasets.Dataset.from_list(table, features=rows.features).to_parquet(str(destination))
    return destination


def _overlap(references: list[str], others: list[str]) -> float:
    return sacrebleu.corpus_bleu(others, [references]).score
