"""Writing of items to parquet files: the same items give the same bytes, with any number of processes and interruptions."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet

from verl_leaf.common.files import lock_folder, read_json, whole_file, write_file
from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.common.progress import track
from verl_leaf.prepare.convert import Settings, convert, embedded
from verl_leaf.prepare.corpus import SPLITS, Corpus, Item, Rejected
from verl_leaf.prepare.report import write_report

# A row group ends before it exceeds either limit, so that readers need little memory.
ROW_GROUP_ROWS = 256
ROW_GROUP_BYTES = 32 * 2**20  # of embedded audio; a row with more is a group by itself

TEXT = pyarrow.string()
EXTRA_INFO = pyarrow.struct(
    [
        ("id", TEXT),
        ("split", TEXT),
        ("index", pyarrow.int64()),
        ("question", TEXT),
        ("seconds", pyarrow.float64()),
        ("choices", pyarrow.list_(TEXT)),
        ("category", TEXT),
        ("difficulty", TEXT),
        ("record", TEXT),
    ]
)
# Shared by all corpora, so that any files can be combined in training.
SCHEMA = pyarrow.schema(
    [
        ("data_source", TEXT),
        ("prompt", pyarrow.list_(pyarrow.struct([("role", TEXT), ("content", TEXT)]))),
        ("audios", pyarrow.list_(pyarrow.struct([("bytes", pyarrow.binary()), ("path", TEXT)]))),
        ("reward_model", pyarrow.struct([("style", TEXT), ("ground_truth", pyarrow.list_(TEXT))])),
        ("extra_info", EXTRA_INFO),
    ]
)


def write(
    corpus: Corpus, out: Path, prompt: str | None, embed: bool, workers: int | None, shard_rows: int
) -> dict[str, int]:
    """Write ``{split}.parquet`` (or shards of it), ``rejected.jsonl`` and ``report.json``, and print a table.

    Shards from an earlier, interrupted call are kept if their audio files have not changed.

    Args:
        out: folder to write, made if needed; audio that is cut or joined goes to its folder ``audio/``, unless embedded.

    Returns:
        The numbers of rows written, by split.

    Raises:
        ValueError: the folder contains something else or is in use, the prompt lacks {question}, or no row is left.
    """
    out = out.resolve()
    whole = None if prompt is None else _whole_prompt(prompt, corpus)
    settings = Settings(replace(corpus, items=[], rejected=[]), whole, embed, str(out))
    state = out / ".prepare"
    with lock_folder(state):
        _same_as_before(state / "fingerprint", corpus, settings, shard_rows)
        (out / "audio").mkdir(exist_ok=True)
        shards = _write_shards(corpus, settings, state, workers, shard_rows)
        rejected = [*map(asdict, corpus.rejected), *(entry for shard in shards for entry in shard["rejected"])]
        write_file(out / "rejected.jsonl", "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rejected))
        written = write_report(out, corpus, shards, rejected)
    if not written:
        first = f"; the first: {rejected[0]['source']}: {rejected[0]['reason']}" if rejected else ""
        raise ValueError(f"no row is left of {len(rejected)}. {out / 'rejected.jsonl'} lists the reasons{first}")
    return written


def _whole_prompt(prompt: str, corpus: Corpus) -> str:
    for what, there in (
        ("question", any(item.question for item in corpus.items)),
        ("choices", any(item.choices for item in corpus.items)),
    ):
        if there and f"{{{what}}}" not in prompt:
            raise ValueError(f"--prompt {prompt!r} contains no {{{what}}}, which stands for each row's {what}")
    if not prompt.strip() or prompt.count(PLACEHOLDER) > 1:
        raise ValueError(f"--prompt {prompt!r}: it must be a text that contains {PLACEHOLDER} at most once")
    return prompt if PLACEHOLDER in prompt else f"{PLACEHOLDER}\n{prompt}"


def _same_as_before(file: Path, corpus: Corpus, settings: Settings, shard_rows: int) -> None:
    """Raise an error unless the folder is new, or from an earlier call with the same input and options."""
    out = file.parents[1]
    digest = hashlib.sha256(repr((SCHEMA, settings, shard_rows, corpus.items, corpus.rejected)).encode()).hexdigest()
    if file.exists():
        if file.read_text() != digest:
            raise ValueError(
                f"{out} contains rows of another input or with other options. Delete it, or choose another --out"
            )
    elif out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(f"{out} is not empty, and not from an earlier call. Choose another --out")
    write_file(file, digest)


def _write_shards(corpus: Corpus, settings: Settings, state: Path, workers: int | None, shard_rows: int) -> list[dict]:
    """Write the shards that are missing or whose audio has changed, and return the records of all."""
    records = []
    with ProcessPoolExecutor(workers) as pool:
        for split, name, items in _shards(corpus.items, shard_rows):
            record, file, audio = state / f"{name}.json", Path(settings.out, f"{name}.parquet"), _audio_state(items)
            done = read_json(record, dict)
            if done.get("audio") != audio or (done["rows"] and not file.exists()):
                file.unlink(missing_ok=True)
                results = pool.map(functools.partial(convert, settings), items, chunksize=8)
                shown = track(results, f"{corpus.data_source}, {name}", len(items))
                try:
                    rows, rejected = _write_shard(file, shown)
                except BrokenProcessPool:
                    raise ValueError(
                        f"a worker process ended while it wrote {name}, probably because memory was short. Use fewer --workers; "
                        "finished files are kept"
                    ) from None
                done = {"split": split, "file": file.name, "audio": audio, "rows": rows, "rejected": rejected}
                write_file(record, json.dumps(done))
            records.append(done)
    return records


def _audio_state(items: list[tuple[int, Item]]) -> str:
    """Return a digest of the sizes and times of all files with the audio of some items."""

    def status(path: str) -> tuple[int, int] | None:
        try:
            found = os.stat(path)
        except (OSError, ValueError):  # there is no file, or the path is a ``data:`` URI
            return None
        return found.st_size, found.st_mtime_ns

    paths = sorted({segment.path for _, item in items for segments in item.audios for segment in segments})
    return hashlib.sha256(repr([status(path) for path in paths]).encode()).hexdigest()


def _shards(items: list[Item], size: int) -> Iterator[tuple[str, str, list[tuple[int, Item]]]]:
    for split in SPLITS:
        numbered = list(enumerate(item for item in items if item.split == split))
        count = -(-len(numbered) // size)
        for number in range(count):
            name = split if count == 1 else f"{split}-{number:05d}-of-{count:05d}"
            yield split, name, numbered[number * size : (number + 1) * size]


def _write_shard(file: Path, results: Iterator[dict | Rejected]) -> tuple[list, list]:
    """Write a file, unless all of its rows are left out, and return numbers of each row written, and the rows left out.

    The numbers are the seconds, the words of the first answer, and whether nothing can be heard in a clip.
    """
    written, rejected = [], []
    group: list[dict] = []
    size = 0
    with whole_file(file) as temporary, pyarrow.parquet.ParquetWriter(temporary, SCHEMA) as writer:
        for result in results:
            if isinstance(result, Rejected):
                rejected.append(asdict(result))
                continue
            more = embedded(result["audios"])
            if group and (len(group) == ROW_GROUP_ROWS or size + more > ROW_GROUP_BYTES):
                writer.write_table(pyarrow.Table.from_pylist(group, SCHEMA))
                group, size = [], 0
            group.append(result)
            size += more
            answer = result["reward_model"]["ground_truth"][0]
            written.append([result["extra_info"]["seconds"], len(answer.split()), result["unheard"]])
        if group:
            writer.write_table(pyarrow.Table.from_pylist(group, SCHEMA))
        if not written:
            temporary.unlink()
    return written, rejected
