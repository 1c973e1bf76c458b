"""The validation rows of a run: all given rows or the first of them, and the control with other rows' audio."""

import hashlib
import os
from pathlib import Path

from omegaconf import DictConfig

from verl_leaf.checks.config import is_speech_run
from verl_leaf.common.errors import errors_at
from verl_leaf.common.files import file_digest
from verl_leaf.data.options import Keys
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.rows import spoken_row
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.swap import write_first_rows, write_swapped


def planned_files(folder: RunFolder, validation: Path, config: DictConfig) -> list[Path]:
    """Return the parquet files to validate on: the rows, and the control that a run has if the rows have audio."""
    return [folder.validation_rows if config.data.val_max_samples > 0 else validation, folder.swapped_rows]


def validation_files(folder: RunFolder, validation: Path, config: DictConfig) -> list[Path]:
    """Write the validation files that a run needs into its folder, and return all files to validate on.

    ``data.val_max_samples`` does not include the control's rows, although verl counts the rows of all files together.

    Raises:
        ValueError: the file cannot be read, or has too few rows.
    """
    keys = Keys.of(config.data) if is_speech_run(config) else None
    rows, swapped = planned_files(folder, validation, config)
    with errors_at("--val"):
        if rows != validation:
            write_first_rows(validation, rows, config.data.val_max_samples, keys)
        if keys is not None and write_swapped(rows, swapped, config, keys):
            return [rows, swapped]
    return [rows]


def validation_digest(validation: Path, config: DictConfig) -> str:
    """Return the SHA-256 of a validation file and of the audio files that its rows name.

    Raises:
        ValueError: the file cannot be read, or a row lacks something.
    """
    together = hashlib.sha256()
    with errors_at("--val"):
        file = RowFile(validation)
        together.update(file_digest(validation).encode())
        if is_speech_run(config):
            keys, count = Keys.of(config.data), config.data.val_max_samples
            for number, row in file.rows(range(min(count, len(file)) if count > 0 else len(file))):
                with errors_at(f"{validation}, row {number}"):
                    audios = spoken_row(row, str(validation.parent), keys)[keys.audio]
                for audio in audios:
                    path = audio.get("path") if isinstance(audio, dict) else audio
                    if isinstance(path, str) and os.path.isfile(path):
                        together.update(file_digest(Path(path)).encode())
    return together.hexdigest()
