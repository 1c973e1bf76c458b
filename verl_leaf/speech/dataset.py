"""verl's dataset with audio: ``data.custom_cls.path=pkg://verl_leaf.speech.dataset data.custom_cls.name=SpeechDataset``.

All checks of the data are made when the dataset is built, because verl builds it before it starts an engine
(verl/trainer/ppo/v1/trainer_base.py PPOTrainer._setup).
"""

import copy
import hashlib
import json
import logging
import os
import time
from array import array
from collections import Counter
from enum import Flag, auto

import numpy as np
from omegaconf import OmegaConf
from verl.tools.tool_registry import load_all_tools
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_leaf import __version__
from verl_leaf.data.audio import unheard
from verl_leaf.data.options import Keys, check_options, long_audio
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.rows import check_columns, spoken_row
from verl_leaf.data.store import RowStore
from verl_leaf.models import family_of_processor
from verl_leaf.speech.prompt import check_clips, continued_text, render_prompt
from verl_leaf.speech.tools import AudioTool

logger = logging.getLogger("verl.leaf")  # verl's handler serves only loggers below "verl"

WORTH_KEEPING = 10.0  # seconds; if checking takes longer, the rows are kept for later runs
# Settings of `data` that do not change how a row is processed. The choice of rows is part of the name separately.
WITHOUT_EFFECT = (
    "train_files",
    "val_files",
    "train_max_samples",
    "val_max_samples",
    "shuffle",
    "validation_shuffle",
    "seed",
    "cache_dir",
    "train_batch_size",
    "val_batch_size",
    "gen_batch_size",
    "dataloader_num_workers",
)


class Fit(Flag):
    """Properties of a row that are counted or decide whether it is left out; most rows have none."""

    LONG_AUDIO = auto()
    LONG_PROMPT = auto()
    UNHEARD = auto()


class SpeechDataset(RLHFDataset):
    """verl's rows (``data_source``, ``prompt``, ``audios``, ``reward_model``, ``extra_info``) with audio to decode.

    ``audios`` contains a list of references in the forms of :func:`verl_leaf.data.audio.load_audio`, one for each
    ``<audio>`` in the messages; null means none. A message's content may also be a list of parts. A relative path
    starts from the folder of its parquet file. ``data.train_max_samples`` and ``data.val_max_samples`` choose rows as
    in verl, before any row is checked.

    Raises:
        ValueError: a file cannot be read or lacks a column, a row's audio or prompt cannot be used, or a setting of
            ``data`` is not supported for speech. The message names file, row and reason.
    """

    def _read_files_and_tokenize(self):
        check_options(self.config)
        self.keys = Keys.of(self.config)
        self._load_tools()
        files = [RowFile(os.path.expanduser(file)) for file in self.data_files]
        for file in files:
            check_columns(file.path, file.columns, self.keys)
        total = sum(map(len, files))
        order = self._chosen(total)
        numbers = np.sort(order)
        name = self._name(files, numbers)
        earlier = RowStore.find(self.cache_dir, name)
        if earlier is None:
            store, used, words = self._checked(files, numbers)
        else:
            store, used, words = earlier[0], earlier[1]["used"], earlier[1]["words"].tolist()
            words.append(
                f"{self.cache_dir}/{name}.rows contains these rows, checked by an earlier run, so no audio is read now. If "
                "audio has changed under the same name, delete that file"
            )
        for word in words:
            logger.warning(word)
        place = np.searchsorted(used, order).clip(max=len(used) - 1)
        self.dataframe = store.select(place[used[place] == order])
        if len(order) < total:
            logger.warning("%d of %d rows are used, because data.*_max_samples is set", len(order), total)

    def _load_tools(self) -> None:
        """Load the tools that the model may call, or stop: verl's own dataset drops those that it cannot load."""
        try:
            tools = load_all_tools(self.tool_config_path, self.function_tool_path)
        except Exception as error:  # of the user's own module: anything
            raise ValueError(
                "actor_rollout_ref.rollout.multi_turn: the tools of "
                f"{self.tool_config_path or self.function_tool_path} cannot be loaded ({error!r})"
            ) from error
        self.tool_schemas = [tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in tools]
        self.return_audio = any(isinstance(tool, AudioTool) for tool in tools)

    def _name(self, files: list[RowFile], numbers: np.ndarray) -> str:
        """Return a name for the rows: its first part identifies the files, the second what decides which rows are used."""
        paths = json.dumps([os.path.abspath(file) for file in self.original_data_files])
        every = OmegaConf.to_container(self.config, resolve=True)
        assert isinstance(every, dict) and self.processor is not None
        settings = {name: value for name, value in every.items() if name not in WITHOUT_EFFECT}
        processor = self.processor
        about = [
            *(__version__, type(self).__qualname__, json.dumps(settings, sort_keys=True, default=str)),
            *(str((status.st_size, status.st_mtime_ns)) for file in files if (status := os.stat(file.path))),
            *(processor.tokenizer.backend_tokenizer.to_str(), repr(processor.chat_template)),
            *(repr(processor), hashlib.sha256(numbers.tobytes()).hexdigest()),
            json.dumps([self.tool_schemas, self.return_audio]),
        ]
        return "-".join(hashlib.sha256(text.encode()).hexdigest()[:16] for text in (paths, "\n".join([paths, *about])))

    def _checked(self, files: list[RowFile], numbers: np.ndarray) -> tuple[RowStore, np.ndarray, list[str]]:
        """Return the rows that can be used, their numbers, and messages about them."""
        names = list(dict.fromkeys([name for file in files for name in file.columns] + [self.keys.audio]))
        needed = sum(file.size for file in files) * len(numbers) // sum(map(len, files))
        words: list[str] = []
        store, used, first, began = RowStore(self.cache_dir, needed), array("Q"), 0, time.monotonic()
        for file, original in zip(files, self.original_data_files, strict=True):
            of_file = numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, first + len(file))] - first
            for number, row in self._usable_rows(file, of_file, self._root(file, original), words):
                used.append(first + number)
                store.append({name: row.get(name) for name in names})
            first += len(file)
        usable = np.array(used)
        if time.monotonic() - began > WORTH_KEEPING and type(self) is SpeechDataset:
            try:
                path = store.keep(self._name(files, numbers), used=usable, words=np.array(words, dtype=str))
                size = f"{store.size / 2**30:.1f} GiB"
                words.append(f"{path} contains these rows ({size}), so the next run need not check them")
            except OSError as error:
                words.append(f"{self.cache_dir}: the rows cannot be kept for the next run ({error.strerror})")
        return store, usable, words

    def _chosen(self, total: int) -> np.ndarray:
        """Return the numbers of the rows to use, in order, as in RLHFDataset._read_files_and_tokenize."""
        if not isinstance(self.max_samples, int):
            raise ValueError(f"data.*_max_samples={self.max_samples}: set it to a number of rows, or -1 for all")
        if not 0 < self.max_samples < total:
            return np.arange(total)
        if not self.shuffle:
            return np.arange(self.max_samples)
        return np.random.default_rng(self.seed).choice(total, size=self.max_samples, replace=False)

    def _root(self, file: RowFile, original: str) -> str:
        """Return the folder from which relative paths start: that of the file named in ``data``, not of verl's copy."""
        return os.path.dirname(os.path.abspath(file.path if "://" in original else os.path.expanduser(original)))

    def _usable_rows(self, file: RowFile, numbers: np.ndarray, root: str, words: list[str]):
        """Yield number and row of the rows that can be used; add to ``words`` how many cannot."""

        def fit(row: dict) -> Fit:
            row.update(spoken_row(row, root, self.keys))
            return self._fit(row)

        left_out, left, counts = self._left_out(), 0, Counter[Fit]()
        for number, row, result in file.map(fit, f"Checking {os.path.basename(file.path)}", numbers):
            if isinstance(result, ValueError):
                raise ValueError(f"{file.path}, row {number}: {result}") from result
            counts.update(result)
            if not result & left_out:
                left += 1
                yield number, row
        tokens = self.max_prompt_length
        for kind, what in (
            (Fit.LONG_AUDIO, f"audio that is too long for the model; data.long_audio={long_audio(self.config)}"),
            (
                Fit.LONG_PROMPT,
                f"a prompt of more than {tokens} tokens and are left out; data.filter_overlong_prompts=True",
            ),
            (Fit.UNHEARD, "a clip in which nothing can be heard, and are used; `verl-leaf data` lists them"),
        ):
            if counts[kind]:
                words.append(f"{file.path}: {counts[kind]} of {len(numbers)} rows have {what}")
        if len(numbers) and not left:
            raise ValueError(f"{file.path}: no row is left")

    def _left_out(self) -> Fit:
        return Fit.LONG_PROMPT | (Fit.LONG_AUDIO if long_audio(self.config) == "skip" else Fit(0))

    def _fit(self, row: dict) -> Fit:
        messages = self._build_messages(copy.deepcopy(row), key=self.prompt_key)
        text, clips, is_long = render_prompt(self.processor, messages, self.config, self.tool_schemas or ())
        if is_long and Fit.LONG_AUDIO in self._left_out():
            return Fit.LONG_AUDIO
        family = family_of_processor(self.processor)
        self._check_reply(messages, len(clips))
        length = family.prompt_length(self.processor, text, [len(clip) for clip in clips])
        if length > self.max_prompt_length:
            if self.config.get("filter_overlong_prompts", False):
                return Fit.LONG_PROMPT
            raise ValueError(
                f"the prompt has {length} tokens, but data.max_prompt_length is {self.max_prompt_length}. Raise it, or leave "
                "such rows out with data.filter_overlong_prompts=True"
            )
        rate = family.sampling_rate(self.processor)
        is_unheard = any(unheard(clip, rate) for clip in clips)
        return (Fit.LONG_AUDIO if is_long else Fit(0)) | (Fit.UNHEARD if is_unheard else Fit(0))

    def _check_reply(self, messages: list[dict], clips: int) -> None:
        """Stop unless the conversation can continue after a tool call."""
        if not self.tool_schemas:
            return
        parts: list[dict] = [{"type": "audio", "audio": None}] * self.return_audio
        check_clips(family_of_processor(self.processor), clips, len(parts))
        reply = {"role": "user", "content": [*parts, {"type": "text", "text": "reply"}]}
        continued_text(self.processor, messages, reply, self.config, self.tool_schemas)
