"""The rows that a run validates on: those it was given, or the first of them, and the control with other rows' audio."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
from omegaconf import DictConfig

from verl_leaf.runs.folder import RunFolder
from verl_leaf.speech.rows import absolute_audio
from verl_leaf.speech.swap import write_swapped


@dataclass(frozen=True)
class ValidationFiles:
    """Parquet files: the rows, and the control where the rows have audio."""

    rows: Path
    swapped: Path | None

    def all(self) -> list[Path]:
        return [self.rows] if self.swapped is None else [self.rows, self.swapped]

    @classmethod
    def planned(cls, folder: RunFolder, validation: Path, config: DictConfig) -> "ValidationFiles":
        """Where a run would have them."""
        rows = folder.validation_rows if config.data.val_max_samples > 0 else validation.absolute()
        return cls(rows, folder.swapped_rows)


def validation_files(folder: RunFolder, validation: Path, config: DictConfig) -> ValidationFiles:
    """Write what a run needs into its folder.

    ``data.val_max_samples`` counts rows without the control: verl counts all files as one.

    Args:
        folder: of the run.
        validation: parquet file.
        config: verl's.

    Raises:
        ValueError: the file cannot be read, or has too few rows.
    """
    if not validation.is_file():
        raise ValueError(f"--val {validation}: " + ("is a folder" if validation.is_dir() else "does not exist"))
    planned = ValidationFiles.planned(folder, validation, config)
    if planned.rows != validation.absolute():
        write_first_rows(validation, planned.rows, config.data.val_max_samples, config.data.audio_key)
    try:
        columns = pyarrow.parquet.read_schema(validation).names
    except pyarrow.ArrowException as error:
        raise ValueError(f"--val {validation}: is no parquet file ({error})") from error
    if config.data.audio_key not in columns:
        return ValidationFiles(planned.rows, None)
    write_swapped(planned.rows, folder.swapped_rows)
    return planned


def write_first_rows(source: Path, destination: Path, count: int, audio_key: str) -> None:
    """Write the first rows of a parquet file to another folder, with paths of audio that hold there."""
    file = pyarrow.parquet.ParquetFile(source)
    batch = next(file.iter_batches(batch_size=count), None)
    if batch is None:
        raise ValueError(f"--val {source}: has no rows")
    rows, root = batch.to_pylist(), str(source.absolute().parent)
    for row in rows:
        if row.get(audio_key):
            row[audio_key] = [absolute_audio(audio, root) for audio in row[audio_key]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=batch.schema), destination)
