"""Conversion of items to rows in verl's format, in worker processes."""

import functools
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from verl_leaf.common.errors import errors_at
from verl_leaf.common.files import write_file
from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.data.audio import load_audio, unheard
from verl_leaf.data.choices import letter_of
from verl_leaf.data.references import AudioError, contents
from verl_leaf.data.rows import spoken_row
from verl_leaf.prepare.corpus import Corpus, Item, Rejected, Segment, choose
from verl_leaf.prepare.tables import ParquetColumn

RATE = 16000  # Hz of audio that is joined or cut here
MAX_EMBEDDED = 2**30  # bytes of a row's audio: half of the largest Arrow array
TOLERANCE = 0.5  # seconds by which a recording may be shorter than a segment of it


@dataclass(frozen=True)
class Settings:
    """The settings of a worker."""

    corpus: Corpus  # without its rows
    prompt: str | None  # prompt of all rows, instead of the phrasings and the rows' own prompts
    embed: bool
    out: str


def convert(settings: Settings, numbered: tuple[int, Item]) -> dict | Rejected:
    """Return the row of an item and its number within the split, or why it is rejected."""
    number, item = numbered
    longest = settings.corpus.max_seconds
    try:
        text = _prompt(settings, item)
        waveforms = [np.concatenate([_load(segment) for segment in segments]) for segments in item.audios]
        seconds = sum(map(len, waveforms)) / RATE
        if longest is not None and seconds > longest:
            raise AudioError(f"the audio lasts {seconds:.1f} s, more than {longest:g} s")
        stem = f"audio/{item.split}-{number:07d}"
        audios = [
            _reference(settings, segments, waveform, f"{stem}-{part}")
            for part, (segments, waveform) in enumerate(zip(item.audios, waveforms, strict=True))
        ]
        if (size := embedded(audios)) > MAX_EMBEDDED:
            raise AudioError(f"the audio is {size / 1e6:.0f} MB, too large to embed. Remove --embed, or cut the audio")
        row = {
            "data_source": item.data_source or settings.corpus.data_source,
            "prompt": [{"role": "user", "content": text}],
            "audios": audios,
            "reward_model": {"style": "rule", "ground_truth": list(item.answers)},
            "extra_info": {
                "id": item.id,
                "split": item.split,
                "index": number,
                "question": item.question,
                "seconds": seconds,
                "choices": list(item.choices) or None,
                "category": item.category or None,
                "difficulty": item.difficulty or None,
                "record": item.record or None,
            },
            "unheard": any(unheard(waveform, RATE) for waveform in waveforms),  # only for the report
        }
        spoken_row(row, settings.out)  # raises an error if a run would
    except ValueError as error:
        return Rejected(item.id, item.source, str(error))
    return row


def embedded(audios: list[dict]) -> int:
    """Return the bytes of the audio inside a row."""
    return sum(len(audio["bytes"] or b"") for audio in audios)


def _prompt(settings: Settings, item: Item) -> str:
    if PLACEHOLDER in item.question:
        text = item.question  # a whole prompt
    elif item.prompt and settings.prompt is None:
        text = item.prompt
    else:
        corpus = settings.corpus
        phrasings = corpus.phrasings[:1] if item.split in corpus.one_phrasing else corpus.phrasings
        phrasing = settings.prompt or choose(phrasings, item.phrase_by or item.question)
        text = fill(phrasing, item.question, item.choices, len(item.audios))
    if text.count(PLACEHOLDER) != len(item.audios):
        raise AudioError(f"the question must contain {PLACEHOLDER} once for each of the {len(item.audios)} audio(s)")
    return text


def fill(phrasing: str, question: str, choices: Sequence[str] = (), clips: int = 1) -> str:
    """Return a phrasing filled with the question, lettered choices, and a placeholder for each clip."""
    lettered = "\n".join(f"{letter_of(number)}) {choice}" for number, choice in enumerate(choices))
    fields = {PLACEHOLDER: PLACEHOLDER * clips, "{question}": question, "{choices}": lettered}
    return re.sub("|".join(map(re.escape, fields)), lambda match: fields[match[0]], phrasing)


def _load(segment: Segment) -> np.ndarray:
    """Return the float32 waveform ``[samples]`` of a segment; raise ValueError if a part of it is missing."""
    if segment.row is not None:
        with errors_at(f"{segment.path}, row {segment.row}"):
            return load_audio(_stored(segment), RATE)
    if segment.seconds is None:
        return load_audio(segment.path, RATE, start=segment.start)
    waveform = load_audio(segment.path, RATE, start=segment.start, seconds=segment.seconds)
    if len(waveform) < (segment.seconds - TOLERANCE) * RATE:
        raise AudioError(
            f"{segment.path}: the recording ends {len(waveform) / RATE:.1f} s after {segment.start:g} s, but the "
            f"segment has {segment.seconds:g} s"
        )
    return waveform


def _reference(settings: Settings, segments: tuple[Segment, ...], waveform: np.ndarray, stem: str) -> dict:
    """Return the value of an audio in a row: a path, or its bytes.

    A recording in a file of its own stays as it is. One inside a parquet file keeps its encoding. One that was cut or
    joined is encoded here.
    """
    whole = segments[0] if len(segments) == 1 and segments[0].seconds is None else None
    if whole is None:
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform, RATE, format="FLAC", subtype="PCM_16")
        data, suffix = buffer.getvalue(), ".flac"
    elif whole.row is not None:
        stored = _stored(whole)
        data, suffix = stored["bytes"], Path(stored.get("path") or "").suffix
    elif (encoded := contents(whole.path)[0]) is not None:
        data, suffix = encoded, ""
    elif not settings.embed:
        return {"bytes": None, "path": os.path.abspath(whole.path)}
    elif os.path.getsize(whole.path) > MAX_EMBEDDED:
        raise AudioError(f"{whole.path}: the file is too large to embed. Remove --embed, or cut the audio")
    else:
        data, suffix = Path(whole.path).read_bytes(), ""
    if settings.embed:
        return {"bytes": data, "path": None}
    name = stem + (suffix if re.fullmatch(r"\.\w{1,5}", suffix) else ".audio")
    write_file(Path(settings.out, name), data)
    return {"bytes": None, "path": name}


def _stored(segment: Segment) -> dict:
    assert segment.row is not None, "a segment in a parquet file has a row"
    value = _column(segment.path, segment.column)[segment.row]
    if segment.part is not None:
        value = value[segment.part]
    return {"bytes": value} if isinstance(value, bytes) else value


@functools.lru_cache(maxsize=2)
def _column(path: str, name: str) -> ParquetColumn:
    return ParquetColumn(Path(path), name)
