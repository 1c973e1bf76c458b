"""Items to parquet files: the same bytes from the same items, however many processes, interrupted or not."""

import functools
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from verl_leaf.prepare.corpus import PLACEHOLDER, SPLITS, Corpus, Item, Rejected, Segment, choose
from verl_leaf.speech.audio import AudioError, load_audio

RATE = 16000  # Hz of the audio that is joined or cut here
ROW_GROUP = 256  # rows that are read together: with embedded audio a few dozen megabytes
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know to make a row."""

    data_source: str
    phrasings: tuple[str, ...]
    one_phrasing: tuple[str, ...]
    max_seconds: float | None
    several_answers: bool
    embed: bool
    out: str


def write(
    corpus: Corpus, out: Path, prompt: str | None, embed: bool, workers: int | None, shard_rows: int
) -> dict[str, int]:
    """Write ``{split}.parquet`` (or shards of it), ``rejected.jsonl`` and ``report.json``, and show a table.

    Shards that an earlier, interrupted call has written are kept.

    Args:
        corpus: what to write.
        out: folder, made if need be; audio that is cut or joined goes to ``audio/`` in it, unless embedded.
        prompt: the one phrasing to use, instead of the corpus's.
        embed: put encoded audio into the rows, instead of its path.
        workers: processes; one a core if None.
        shard_rows: items a file.

    Returns:
        Rows written, by split.

    Raises:
        ValueError: the folder holds something else, the prompt lacks {question}, or no row is left.
    """
    out = out.resolve()
    settings = Settings(
        corpus.data_source,
        (_prompt(prompt, corpus),) if prompt else corpus.phrasings,
        corpus.one_phrasing,
        corpus.max_seconds,
        any(len(item.answers) > 1 for item in corpus.items),
        embed,
        str(out),
    )
    state = out / ".prepare"
    state.mkdir(parents=True, exist_ok=True)
    _same_as_before(state / "fingerprint", corpus, settings, shard_rows)
    (out / "audio").mkdir(exist_ok=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    records = []
    with Progress(*columns) as progress, ProcessPoolExecutor(workers) as pool:
        task = progress.add_task(corpus.data_source, total=len(corpus.items))
        for name, items in _shards(corpus.items, shard_rows):
            record = state / f"{name}.json"
            if not record.exists():
                results = pool.map(functools.partial(_convert, settings), items, chunksize=8)
                _write_shard(out / f"{name}.parquet", record, _watched(results, progress, task), settings)
            progress.update(task, completed=sum(len(r["rows"]) + len(r["rejected"]) for r in records) + len(items))
            records.append(json.loads(record.read_text()))
    rejected = [*map(asdict, corpus.rejected), *(entry for record in records for entry in record["rejected"])]
    _replace(out / "rejected.jsonl", "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rejected))
    return _report(out, corpus.data_source, records, rejected)


def _prompt(prompt: str, corpus: Corpus) -> str:
    if any(item.question for item in corpus.items) and "{question}" not in prompt:
        raise ValueError(f"--prompt {prompt!r} holds no {{question}}, which stands for each row's question")
    return prompt if PLACEHOLDER in prompt else f"{PLACEHOLDER}\n{prompt}"


def _same_as_before(file: Path, corpus: Corpus, settings: Settings, shard_rows: int) -> None:
    digest = hashlib.sha256(repr((settings, shard_rows, corpus.items, corpus.rejected)).encode()).hexdigest()
    if file.exists() and file.read_text() != digest:
        raise ValueError(
            f"{file.parents[1]} holds rows of another input or with other options: delete it, or choose another --out"
        )
    _replace(file, digest)


def _shards(items: list[Item], size: int) -> Iterator[tuple[str, list[tuple[int, Item]]]]:
    for split in SPLITS:
        own = list(enumerate(item for item in items if item.split == split))
        count = -(-len(own) // size)
        for number in range(count):
            name = split if count == 1 else f"{split}-{number:05d}-of-{count:05d}"
            yield name, own[number * size : (number + 1) * size]


def _watched(results, progress: Progress, task) -> Iterator:
    for result in results:
        progress.advance(task)
        yield result


def _convert(settings: Settings, numbered: tuple[int, Item]) -> tuple[dict, float] | Rejected:
    """A row and the seconds of its audio, or why there is none. Runs in a worker."""
    number, item = numbered
    text = (
        settings.phrasings[0]
        if item.split in settings.one_phrasing
        else choose(settings.phrasings, item.phrase_by or item.question)
    )
    if item.question.count(PLACEHOLDER) == len(item.audios):
        text = item.question  # a whole prompt
    elif PLACEHOLDER in item.question:
        return Rejected(
            item.id,
            item.source,
            f"the question holds {PLACEHOLDER}, but not once for each of {len(item.audios)} audio(s)",
        )
    else:
        text = text.replace(PLACEHOLDER, PLACEHOLDER * len(item.audios)).replace("{question}", item.question)
    audios, seconds = [], 0.0
    try:
        for part, segments in enumerate(item.audios):
            audio, length = _audio(settings, segments, f"audio/{item.split}-{number:07d}-{part}.flac")
            audios.append(audio)
            seconds += length
    except AudioError as error:
        return Rejected(item.id, item.source, str(error))
    if settings.max_seconds is not None and seconds > settings.max_seconds:
        return Rejected(item.id, item.source, f"lasts {seconds:.1f} s, more than {settings.max_seconds:g}")
    row = {
        "data_source": settings.data_source,
        "prompt": [{"role": "user", "content": text}],
        "audios": audios,
        "reward_model": {
            "style": "rule",
            "ground_truth": list(item.answers) if settings.several_answers else item.answers[0],
        },
        "extra_info": {
            "id": item.id,
            "split": item.split,
            "index": number,
            "question": item.question,
            "seconds": seconds,
        },
    }
    return row, seconds


def _audio(settings: Settings, segments: tuple[Segment, ...], name: str):
    """What a row holds for an audio, and its seconds."""
    waveform = np.concatenate([_load(segment) for segment in segments])
    seconds = len(waveform) / RATE
    whole = segments[0] if len(segments) == 1 and segments[0].seconds is None else None
    if whole is not None and whole.row is None and not settings.embed:
        return os.path.abspath(whole.path), seconds
    if whole is not None:
        data = _reference(whole)
        data = Path(data).read_bytes() if isinstance(data, str) else data["bytes"]
    else:
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform, RATE, format="FLAC", subtype="PCM_16")
        data = buffer.getvalue()
    if settings.embed:
        return {"bytes": data, "path": None}, seconds
    _replace(Path(settings.out, name), data)
    return name, seconds


def _load(segment: Segment) -> np.ndarray:
    length = {} if segment.seconds is None else {"seconds": segment.seconds}
    try:
        return load_audio(_reference(segment), RATE, start=segment.start, **length)
    except AudioError as error:
        raise error if segment.row is None else AudioError(f"{segment.path}, row {segment.row}: {error}") from error


def _reference(segment: Segment):
    return segment.path if segment.row is None else _table(segment.path)[segment.row].as_py()


@functools.lru_cache(maxsize=2)
def _table(path: str) -> pyarrow.ChunkedArray:
    return pyarrow.parquet.read_table(path, columns=["audio"], memory_map=True)["audio"]


def _write_shard(file: Path, record: Path, results: Iterator, settings: Settings) -> None:
    """The file first, then the record, which says that it is done."""
    rows, rejected, schema = [], [], _schema(settings)
    temporary = file.with_suffix(".partial")
    written = []
    with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for result in results:
            if isinstance(result, Rejected):
                rejected.append(asdict(result))
                continue
            row, seconds = result
            answers = row["reward_model"]["ground_truth"]
            written.append([seconds, len((answers if isinstance(answers, str) else answers[0]).split())])
            rows.append(row)
            if len(rows) == ROW_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows.clear()
        if rows:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    if written:
        temporary.replace(file)
    else:
        temporary.unlink()
    _replace(record, json.dumps({"file": file.name, "rows": written, "rejected": rejected}))


def _schema(settings: Settings) -> pyarrow.Schema:
    text = pyarrow.string()
    audio = pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)]) if settings.embed else text
    return pyarrow.schema(
        [
            ("data_source", text),
            ("prompt", pyarrow.list_(pyarrow.struct([("role", text), ("content", text)]))),
            ("audios", pyarrow.list_(audio)),
            (
                "reward_model",
                pyarrow.struct(
                    [("style", text), ("ground_truth", pyarrow.list_(text) if settings.several_answers else text)]
                ),
            ),
            (
                "extra_info",
                pyarrow.struct(
                    [
                        ("id", text),
                        ("split", text),
                        ("index", pyarrow.int64()),
                        ("question", text),
                        ("seconds", pyarrow.float64()),
                    ]
                ),
            ),
        ]
    )


def _replace(file: Path, content: str | bytes) -> None:
    """Write a file as a whole or not at all."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.partial")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(file)


def _report(out: Path, data_source: str, records: list[dict], rejected: list[dict]) -> dict[str, int]:
    reasons = Counter(re.sub(r"\d[\d.]*", "N", entry["reason"].rsplit(": ", 1)[-1]) for entry in rejected)
    table = Table("split", "rows", "hours", "seconds of audio", "words of an answer", title=data_source)
    splits = {}
    for split in SPLITS:
        own = [record for record in records if record["file"].removesuffix(".parquet").split("-")[0] == split]
        rows = [row for record in own for row in record["rows"]]
        if not rows:
            continue
        seconds, words = zip(*rows, strict=True)
        splits[split] = {
            "rows": len(rows),
            "hours": sum(seconds) / 3600,
            "files": [record["file"] for record in own if record["rows"]],
        }
        table.add_row(split, str(len(rows)), f"{sum(seconds) / 3600:.2f}", histogram(seconds), histogram(words))
    _replace(
        out / "report.json",
        json.dumps({"data_source": data_source, "splits": splits, "left_out": dict(reasons.most_common())}, indent=1),
    )
    console = Console()
    console.print(table)
    for reason, count in reasons.most_common(10):
        console.print(f"{count} left out: {reason}", markup=False)
    console.print(f"in {out}" + (", rejected.jsonl names every row left out" if rejected else ""), markup=False)
    if not splits:
        raise ValueError(f"no row is left of {len(rejected)}; {out / 'rejected.jsonl'} says why")
    return {split: entry["rows"] for split, entry in splits.items()}


def histogram(values) -> str:
    """Smallest value, the shape of the distribution in ten bars, and the largest."""
    counts, _ = np.histogram(values, bins=10)
    bars = "".join(BARS[-(-8 * count // counts.max())] for count in counts)
    return f"{min(values):.3g} {bars} {max(values):.3g}"
