"""The validation rows of a run: all given rows or the first of them, and the control with other rows' audio."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from verl_leaf.checks.config import is_speech_run
from verl_leaf.common.files import file_digest
from verl_leaf.data.options import Keys
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.rows import spoken_row
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.swap import write_first_rows, write_swapped


@dataclass(frozen=True)
class ValidationFiles:
    """The parquet files to validate on: the rows, and the control if the rows have audio."""

    rows: Path
    swapped: Path | None

    def all(self) -> list[Path]:
        return [self.rows] if self.swapped is None else [self.rows, self.swapped]

    @classmethod
    def planned(cls, folder: RunFolder, validation: Path, config: DictConfig) -> "ValidationFiles":
        """Return the files that a run would have."""
        rows = folder.validation_rows if config.data.val_max_samples > 0 else validation
        return cls(rows, folder.swapped_rows)


def validation_files(folder: RunFolder, validation: Path, config: DictConfig) -> ValidationFiles:
    """Write the validation files that a run needs into its folder.

    ``data.val_max_samples`` does not include the control's rows, although verl counts the rows of all files together.

    Args:
        folder: folder of the run.
        validation: parquet file to validate on.
        config: verl's configuration.

    Raises:
        ValueError: the file cannot be read, or has too few rows.
    """
    keys = Keys.of(config.data) if is_speech_run(config) else None
    planned = ValidationFiles.planned(folder, validation, config)
    try:
        if planned.rows != validation:
            write_first_rows(validation, planned.rows, config.data.val_max_samples, keys)
        swapped = None if keys is None else write_swapped(planned.rows, folder.swapped_rows, config, keys)
    except ValueError as error:
        raise ValueError(f"--val: {error}") from error
    return ValidationFiles(planned.rows, swapped)


def validation_digest(validation: Path, config: DictConfig) -> str:
    """Return the SHA-256 of a validation file and of the audio files that its rows name.

    Raises:
        ValueError: the file cannot be read, or a row lacks something.
    """
    together = hashlib.sha256()
    try:
        file = RowFile(validation)
        together.update(file_digest(validation).encode())
        if is_speech_run(config):
            keys, count = Keys.of(config.data), config.data.val_max_samples
            for number, row in file.rows(range(min(count, len(file)) if count > 0 else len(file))):
                for path in _audio_files(row, f"{validation}, row {number}", str(validation.parent), keys):
                    together.update(file_digest(path).encode())
    except ValueError as error:
        raise ValueError(f"--val: {error}") from error
    return together.hexdigest()


def _audio_files(row: dict, name: str, root: str, keys: Keys) -> list[Path]:
    """Return the audio files that a row names and that exist."""
    try:
        audios = spoken_row(row, root, keys)[keys.audio]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    paths = [audio.get("path") if isinstance(audio, dict) else audio for audio in audios]
    return [Path(path) for path in paths if isinstance(path, str) and os.path.isfile(path)]
