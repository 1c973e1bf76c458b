"""Validation files: the first rows of a larger file, and a control that shows whether a model uses the audio."""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Container, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
from omegaconf import DictConfig

from verl_leaf.common.errors import errors_at
from verl_leaf.common.files import whole_file
from verl_leaf.common.names import SWAPPED_AUDIO_SUFFIX
from verl_leaf.data.options import DEFAULT_KEYS, Keys
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.references import contents
from verl_leaf.data.rows import check_columns, reference_texts, spoken_row
from verl_leaf.rewards.corpus import CorpusBleu

MAX_ROWS = 256  # enough to show whether the score collapses
MAX_AUDIO_BYTES = 2**29  # of embedded audio that is in memory at once
MAX_SHIFTS = 16
ROW_GROUP = 16

logger = logging.getLogger("verl.leaf")


def write_first_rows(source: Path, destination: Path, count: int, keys: Keys | None) -> None:
    """Write the first rows of a parquet file to a new file; ``keys`` is None for rows without audio.

    Raises:
        ValueError: the file cannot be read, or a row lacks something.
    """
    file = RowFile(source)
    write_rows([row for _, row in _rows(file, count, keys)], destination, file.mixed)


def write_swapped(source: Path, destination: Path, config: DictConfig, keys: Keys = DEFAULT_KEYS) -> Path | None:
    """Write validation rows in which every row has another row's audio.

    Rows with the same number of clips exchange audio by one shift. Of ``MAX_SHIFTS`` shifts, it is the one that leaves
    the fewest rows with their own clip and, among those, has the lowest BLEU between the old and the new references. A
    row is left out if it has no audio or no other row has the same number of clips.

    Args:
        destination: parquet file to write; its data sources get the suffix ``_swapped_audio``.
        config: verl's configuration, whose reward settings name the tokeniser.

    Returns:
        ``destination``, or None without a file if no row has audio.

    Raises:
        ValueError: the file cannot be read or lacks a column, a row lacks something, or no two rows have the same number of
            clips.
    """
    file, by_count, read, held = RowFile(source), defaultdict(list), 0, 0
    for _, row in _rows(file, MAX_ROWS, keys):
        read += 1
        by_count[len(row[keys.audio])].append(row)
        held += sum(len(contents(audio)[0] or b"") for audio in row[keys.audio])
        if held > MAX_AUDIO_BYTES:
            break
    if set(by_count) == {0}:
        return None
    groups = [rows for count, rows in by_count.items() if count and len(rows) > 1]
    if not groups:
        raise ValueError(
            f"{source}: no two of its first {read} row(s) have the same number of clips, so no audio can be exchanged"
        )
    swapped, same = [], 0
    for rows in groups:
        shift, of_shift = _best_shift(rows, config, keys)
        same += of_shift
        audios = [row[keys.audio] for row in rows]
        for row, audio in zip(rows, audios[shift:] + audios[:shift], strict=True):
            name = row["data_source"] + SWAPPED_AUDIO_SUFFIX
            swapped.append({**row, keys.audio: audio, "data_source": name})
    if len(swapped) < read:
        logger.warning(
            "%s: %d of the first %d rows are not in the control with other rows' audio, because they have no audio or no "
            "other row has the same number of clips",
            *(source, read - len(swapped), read),
        )
    if same:
        logger.warning("%s: %d rows of the control keep their own clip, because many rows share it", source, same)
    write_rows(swapped, destination, file.mixed)
    return destination


def write_rows(rows: list[dict], destination: Path, mixed: Container[str] = ()) -> None:
    """Write rows to a parquet file, in types that all readers know.

    ``mixed`` columns, whose values may differ in type, become JSON, which ``datasets`` and :class:`RowFile` decode.
    """
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    types = {}
    for name, values in columns.items():
        if name in mixed:
            types[name] = pyarrow.json_()
            columns[name] = [None if value is None else json.dumps(value) for value in values]
        else:
            types[name] = pyarrow.infer_type(values)
    schema = pyarrow.schema(types)
    with whole_file(destination) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(rows), ROW_GROUP):
            part = {name: values[start : start + ROW_GROUP] for name, values in columns.items()}
            writer.write_table(pyarrow.Table.from_pydict(part, schema))


def _rows(file: RowFile, count: int, keys: Keys | None) -> Iterator[tuple[int, dict]]:
    """Yield number and value of the first rows; with ``keys``, after :func:`spoken_row`."""
    if keys is not None:
        check_columns(file.path, file.columns, keys)
    root = os.path.dirname(os.path.abspath(file.path))
    for number, row in file.rows(range(min(count, len(file)))):
        with errors_at(f"{file.path}, row {number}"):
            spoken = row if keys is None else spoken_row(row, root, keys)
        yield number, spoken


def _best_shift(rows: list[dict], config: DictConfig, keys: Keys) -> tuple[int, int]:
    """Return the best shift, and how many rows keep their own audio under it."""
    audios = [row[keys.audio] for row in rows]
    sources = [str(row["data_source"]) for row in rows]
    references = [_reference(row["reward_model"]["ground_truth"]) for row in rows]
    bleu = CorpusBleu(config, zip(sources, ([text] for text in references), strict=True))

    def cost(shift: int) -> tuple[int, float]:
        moved, answers = audios[shift:] + audios[:shift], references[shift:] + references[:shift]
        same = sum(audio == other for audio, other in zip(audios, moved, strict=True))
        rows = zip(sources, answers, ([text] for text in references), strict=True)
        return same, bleu([*rows])

    costs = {shift: cost(shift) for shift in range(1, min(len(rows), MAX_SHIFTS + 1))}
    best = min(costs, key=costs.__getitem__)
    return best, costs[best][0]


def _reference(ground_truth) -> str:
    """Return a text that distinguishes references; those of a custom reward may be anything."""
    try:
        return " ".join(reference_texts(ground_truth))
    except ValueError:
        return str(ground_truth)
