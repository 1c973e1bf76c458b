"""veRL's dataset with audio: ``data.custom_cls.path=pkg://verl_leaf.speech.dataset data.custom_cls.name=SpeechDataset``.

Everything that can be known of the data is checked when the dataset is built: veRL does that before it starts an
engine (verl/trainer/ppo/v1/trainer_base.py PPOTrainer._setup).
"""

import copy
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
from tqdm import tqdm
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_leaf.models import family_of_processor
from verl_leaf.speech.audio import AudioError, audio_name, load_audio

logger = logging.getLogger("verl.leaf")  # veRL gives its handler to the loggers below its own name only

LONG_AUDIO = ("error", "cut", "skip")
REQUIRED_COLUMNS = ("data_source", "prompt", "reward_model")
PLACEHOLDER = "<audio>"


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


def check_columns(file: str, names: list[str], audio_key: str = "audios") -> None:
    """Stop unless a file has the columns that a row needs.

    Raises:
        ValueError: it lacks some.
    """
    missing = [name for name in (*REQUIRED_COLUMNS, audio_key) if name not in names]
    if missing:
        raise ValueError(
            f"{file}: no column {', '.join(map(repr, missing))}; it has {', '.join(names)}. "
            "veRL names columns by data.prompt_key and data.audio_key"
        )


def check_row(row: dict, prompt_key: str = "prompt", audio_key: str = "audios") -> None:
    """Stop unless a row has a reference, and as many audios as placeholders.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(row["reward_model"], dict) or row["reward_model"].get("ground_truth") is None:
        raise ValueError("reward_model holds no ground_truth")
    placeholders = sum(str(message["content"]).count(PLACEHOLDER) for message in row[prompt_key])
    if placeholders != len(row[audio_key]):
        raise ValueError(
            f"the prompt holds {placeholders} {PLACEHOLDER} placeholder(s), the column {audio_key!r} "
            f"{len(row[audio_key])} audio(s); they must be as many"
        )


def long_audio(data_config) -> str:
    """What to do with a clip that is longer than the model's window: ``data.long_audio``.

    ``error`` stops before training and is the default, ``cut`` takes the beginning, ``skip`` leaves the row out.

    Raises:
        ValueError: it is none of them.
    """
    value = data_config.get("long_audio", "error")
    if value not in LONG_AUDIO:
        raise ValueError(f"data.long_audio={value}: valid are {', '.join(LONG_AUDIO)}")
    return value


def render_prompt(processor, messages: list[dict], data_config) -> tuple[str, list[np.ndarray], bool]:
    """Apply the chat template to messages and decode their audio.

    Args:
        processor: Hugging Face processor of a supported family.
        messages: chat messages whose content is text or parts, ``{"type": "audio", "audio": reference}`` among them.
        data_config: veRL's ``data`` configuration.

    Returns:
        The rendered text; the waveforms of its audio placeholders in order, float32 mono at the processor's rate, cut to
        the model's window; and whether one was longer.

    Raises:
        AudioError: a clip cannot be used, or is too long and ``data.long_audio`` is ``error``.
    """
    text = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False, **data_config.get("apply_chat_template_kwargs", {})
    )
    family = family_of_processor(processor)
    rate = family.sampling_rate(processor)
    window = int(family.max_seconds * rate)
    clips, is_long = [], False
    for reference in RLHFDataset._extract_audio_info(messages) or []:
        clip = load_audio(reference, rate, seconds=family.max_seconds + 1)  # enough to see that it is longer
        if len(clip) > window:
            if long_audio(data_config) == "error":
                raise AudioError(
                    f"{audio_name(reference)}: lasts more than the {family.max_seconds:g} s that {family.model_type} "
                    "hears: leave the row out, or set +data.long_audio=cut or skip"
                )
            clip, is_long = clip[:window], True
        tokens = family.audio_tokens(processor, len(clip))
        if tokens < family.min_audio_tokens:
            raise AudioError(
                f"{audio_name(reference)}: lasts {len(clip) / rate:.3f} s and would become {tokens} audio token(s); "
                f"{family.model_type} needs {family.min_audio_tokens}: leave the row out"
            )
        clips.append(clip)
    return text, clips, is_long


def absolute_audio(audio, root: str):
    """An audio reference whose relative path starts from ``root`` made absolute."""
    if isinstance(audio, str):
        return os.path.join(root, audio)
    if isinstance(audio, dict) and isinstance(audio.get("path"), str) and audio.get("bytes") is None:
        return {**audio, "path": os.path.join(root, audio["path"])}
    return audio
