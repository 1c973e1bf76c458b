"""veRL's dataset with audio: ``data.custom_cls.path=pkg://verl_leaf.speech.dataset data.custom_cls.name=SpeechDataset``.

Everything that can be known of the data is checked when the dataset is built: veRL does that before it starts an
engine (verl/trainer/ppo/v1/trainer_base.py PPOTrainer._setup).
"""

import copy
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import datasets
from tqdm import tqdm
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_leaf.models import family_of_processor
from verl_leaf.speech.prompt import long_audio, render_prompt
from verl_leaf.speech.rows import absolute_audio, check_columns, check_row

logger = logging.getLogger("verl.leaf")  # veRL gives its handler to the loggers below its own name only


class SpeechDataset(RLHFDataset):
    """veRL's rows (``data_source``, ``prompt``, ``audios``, ``reward_model``, ``extra_info``) with audio to decode.

    ``audios`` holds a list of references as :func:`verl_leaf.speech.audio.load_audio` takes them, one for each
    ``<audio>`` in the messages. A relative path starts from the folder of its parquet file.

    Raises:
        ValueError: a file lacks a column, or a row's audio or prompt cannot be used; file, row and reason are named.
    """

    def _read_files_and_tokenize(self):
        parts = [self._read(file) for file in self.data_files]
        self.dataframe = datasets.concatenate_datasets(parts)
        if 0 < self.max_samples < len(self.dataframe):
            if self.shuffle:
                self.dataframe = self.dataframe.shuffle(seed=self.seed)
            self.dataframe = self.dataframe.select(range(self.max_samples))

    def _read(self, file: str) -> datasets.Dataset:
        rows = datasets.load_dataset("parquet", data_files=file, split="train")
        check_columns(file, rows.column_names, self.audio_key)
        if "Audio(" in str(rows.features[self.audio_key]):  # datasets would decode it, with a library of its own
            rows = rows.cast_column(self.audio_key, datasets.List(datasets.Audio(decode=False)))
        root = os.path.dirname(os.path.abspath(file))
        rows = rows.map(lambda row: {self.audio_key: [absolute_audio(audio, root) for audio in row[self.audio_key]]})
        kept, too_long = [], 0
        with ThreadPoolExecutor() as pool:
            results = pool.map(self._check, rows)
            for number in tqdm(range(len(rows)), desc=f"Checking {os.path.basename(file)}", unit="row"):
                try:
                    is_long = next(results)
                except ValueError as error:
                    pool.shutdown(cancel_futures=True)
                    raise ValueError(f"{file}, row {number}: {error}") from error
                too_long += is_long
                if not (is_long and long_audio(self.config) == "skip"):
                    kept.append(number)
        if too_long:
            logger.warning(
                "%s: %d of %d rows have audio that is too long for the model; data.long_audio=%s",
                *(file, too_long, len(rows), long_audio(self.config)),
            )
        if not kept:
            raise ValueError(f"{file}: no row is left")
        return rows.select(kept)

    def _check(self, row: dict) -> bool:
        """Whether a clip of the row is too long, where that is no error."""
        check_row(row, self.prompt_key, self.audio_key)
        messages = self._build_messages(copy.deepcopy(row), key=self.prompt_key)
        text, clips, is_long = render_prompt(self.processor, messages, self.config)
        if is_long and long_audio(self.config) == "skip":
            return True
        length = family_of_processor(self.processor).prompt_length(self.processor, text, [len(clip) for clip in clips])
        if length > self.max_prompt_length:
            raise ValueError(
                f"the prompt has {length} tokens, data.max_prompt_length is {self.max_prompt_length}: raise it, or "
                "leave the row out"
            )
        return is_long
