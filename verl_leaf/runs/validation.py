"""The rows that a run validates on: those it was given, or the first of them, and the control with other rows' audio."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from verl_leaf.checks.config import is_speech_run
from verl_leaf.data.options import Keys
from verl_leaf.data.parquet import RowFile
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.swap import write_first_rows, write_swapped


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
    keys = Keys.of(config.data) if is_speech_run(config) else None
    planned = ValidationFiles.planned(folder, validation, config)
    try:
        RowFile(validation)
        if planned.rows != validation.absolute():
            write_first_rows(validation, planned.rows, config.data.val_max_samples, keys)
        swapped = None if keys is None else write_swapped(planned.rows, folder.swapped_rows, config, keys)
    except ValueError as error:
        raise ValueError(f"--val: {error}") from error
    return ValidationFiles(planned.rows, swapped)
