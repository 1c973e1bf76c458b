"""Damaged tables in their thousands through ``prepare``: rows that add up, or a one-line error, soon and in little memory.

    python -m tests.benchmarks.fuzz_manifests [--cases 10000] [--seed 0]

Damages one file of a small corpus or manifest (CSV, TSV, UTF-16, JSON, JSON lines, parquet, the question files of LibriSQA
and LongAudio, the tables of CoVoST 2 and VoxPopuli), reads the corpus and makes its rows. Prints how many ended how;
anything else than the two is kept in a folder of its own, with the seed that makes it again.
"""

import argparse
import contextlib
import csv
import functools
import gzip
import io
import json
import random
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet

from tests.benchmarks import fuzzing
from tests.helpers import corpora
from verl_leaf.prepare import add_arguments, covost2, dailytalk, librisqa, manifest, parliament
from verl_leaf.prepare.convert import Settings, _column, convert
from verl_leaf.prepare.corpus import Corpus, Rejected
from verl_leaf.prepare.write import SCHEMA

SECRET = b"RIFF"  # begins the audio inside the parquet files; it must not be in a reason
READ = {
    "librisqa": librisqa,
    "covost2": covost2,
    "dailytalk": dailytalk,
    "parliament": parliament,
    "manifest": manifest,
}
COLUMNS = ("audio", "question", "answer", "id", "split")
TOKENS = [
    *(
        '"',
        '""',
        "'",
        ",",
        ";",
        "\t",
        "|",
        "\n",
        "\r",
        "\r\n",
        "\\",
        "\0",
        "\ufeff",
        "\u2028",
        "\x85",
        "[",
        "]",
        "{",
        "}",
    ),
    *("null", "NaN", "true", "1e999", "<audio>", "<sound>", '"\\ud800"', "sep=;\n", "[" * 2000, "9" * 5000, "../", "é"),
]


def table() -> list[dict]:
    answers = ["ja", "Ja, genau", 'Er rief "nein"; dann ging er.', "Zwei", "5", "drei"]
    return [
        {"audio": f"{n}.wav", "question": f"Frage {n}?", "answer": text, "id": f"r{n}", "split": "train"}
        for n, text in enumerate(answers)
    ]


def manifests(folder: Path) -> None:
    """The same table in the dialects that ``manifest`` reads."""
    for number in range(6):
        corpora.write(folder / f"{number}.wav", corpora.tone(300, 0.05))
    for name, delimiter, encoding in (("a.csv", ",", "utf-8"), ("b.csv", ";", "utf-16"), ("c.tsv", "\t", "utf-8-sig")):
        with open(folder / name, "w", newline="", encoding=encoding) as lines:
            writer = csv.DictWriter(lines, COLUMNS, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(table())
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table()))
    (folder / "e.json").write_text(json.dumps(table(), indent=1))
    embedded = [
        {**row, "audio": {"bytes": (folder / row["audio"]).read_bytes(), "path": row["audio"]}} for row in table()
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(embedded), folder / "f.parquet", row_group_size=4)
    several = [{**row, "audio": [row["audio"]], "answer": [row["answer"], "x"]} for row in table()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(several), folder / "g.parquet")


def build(folder: Path) -> dict[Path, list]:
    """All corpora in a folder: the files to damage, and the command that reads each."""
    files: dict[Path, list] = {}
    for name in ("librisqa", "covost2", "dailytalk", "hub", "sessions", "manifest"):
        (folder / name).mkdir()
    corpora.librisqa(folder / "librisqa")
    corpora.covost2(folder / "covost2")
    corpora.dailytalk(folder / "dailytalk")
    corpora.parliament(folder / "hub", hub=True)
    corpora.parliament(folder / "sessions", hub=False)
    manifests(folder / "manifest")
    root = folder / "librisqa"
    command = ["librisqa", "--questions", root / "questions", "--audio", root]
    files |= dict.fromkeys((root / "questions").glob("*.json"), command)
    root = folder / "covost2"
    command = ["covost2", "--translations", root / "covost_v2.en_de.tsv", "--audio", root / "cv"]
    files |= dict.fromkeys([root / "covost_v2.en_de.tsv", root / "cv/validated.tsv"], command)
    root = folder / "dailytalk"
    shutil.rmtree(root / "DailyTalk/data/2")  # forty seconds, twice: too slow here
    shutil.rmtree(root / "DailyTalk/data/3")
    command = ["dailytalk", "--questions", root / "questions", "--audio", root / "DailyTalk"]
    files[root / "questions/longaudio_xl/DailyTalk_LongAudio.json"] = command
    for root in (folder / "hub", folder / "sessions"):
        command = ["parliament", "--questions", root / "questions", "--europarl", root / "europarl"]
        command += ["--voxpopuli", root / "voxpopuli"]
        files |= dict.fromkeys([*(root / "questions").glob("*.json"), *(root / "voxpopuli").glob("*.*")], command)
    for file in sorted((folder / "manifest").glob("[a-g].*")):
        files[file] = ["manifest", file, "--held-out", "0"]
    return files


def damage(data: bytes, generator: random.Random) -> bytes:
    """One or two wounds."""
    encoding = "utf-16-le" if data.startswith(b"\xff\xfe") else "utf-8"
    data = bytearray(data)
    for _ in range(generator.randint(1, 2)):
        where, kind = generator.randrange(len(data) + 1), generator.randrange(8)
        if kind < 3:  # what means something to a reader
            data[where:where] = generator.choice(TOKENS).encode(encoding)
        elif kind == 3:
            data[where : where + 1] = bytes([generator.randrange(256)])
        elif kind == 4:
            del data[where : where + generator.randint(1, 64)]
        elif kind == 5:
            begin = generator.randrange(len(data) + 1)
            data[where:where] = data[begin : begin + generator.randint(1, 200)]
        elif kind == 6:
            data[where:where] = generator.randbytes(generator.randint(1, 16))
        elif generator.random() < 0.3:
            del data[where:]
    return bytes(data)


def case(seed: int) -> tuple[Path, bytes]:
    """The file to damage and its damaged content."""
    generator = random.Random(seed)
    file = generator.choice(sorted(_inputs()[1]))
    whole = _whole(file)
    if file.suffix == ".gz" and generator.random() < 0.7:
        return file, gzip.compress(damage(gzip.decompress(whole), generator), mtime=0)
    return file, damage(whole, generator)


def outcome(seed: int) -> str:
    """How a case ends, in a process whose memory and time are limited."""
    folder, files = _inputs()
    file, data = case(seed)
    whole = _whole(file)
    _column.cache_clear()  # what it has open is another case's
    try:
        file.write_bytes(data)
        corpus = _read(files[file])
        settings = Settings(replace(corpus, items=[], rejected=[]), None, False, str(folder / "out"))
        rows = [convert(settings, (number, item)) for number, item in enumerate(corpus.items)]
        return _judge(file, data, corpus, rows)
    except ValueError as error:
        return "error" if "\n" not in str(error) and file.name in str(error) else "error of another kind"
    except Exception as error:
        return type(error).__name__
    finally:
        file.write_bytes(whole)


def _judge(file: Path, data: bytes, corpus: Corpus, rows: list) -> str:
    """ "rows" if they can be written, nothing is left out without a word, and no audio is in a reason."""
    pyarrow.Table.from_pylist([row for row in rows if not isinstance(row, Rejected)], SCHEMA)
    rejected = [*corpus.rejected, *(row for row in rows if isinstance(row, Rejected))]
    reasons = "".join(json.dumps(asdict(entry), ensure_ascii=False) for entry in rejected).encode()
    if SECRET in reasons:
        return "audio in a reason"
    of_file = [entry for entry in (*corpus.items, *corpus.rejected) if entry.source.startswith(f"{file.name}, ")]
    return "rows" if len(of_file) >= _least(file, data) else "rows lost"


def _least(file: Path, data: bytes) -> int:
    """How many rows a damaged file has at least, by other means than those of ``prepare``."""
    if file.suffix == ".parquet":
        return pyarrow.parquet.ParquetFile(io.BytesIO(data)).metadata.num_rows if file.parent.name == "manifest" else 0
    if file.suffix == ".gz" or file.name == "validated.tsv":
        return 0
    text = data.decode("utf-16" if data.startswith(b"\xff\xfe") else "utf-8-sig")
    if text.lstrip().startswith("["):
        return len(json.loads(text))
    lines = [line for line in text.split("\n") if line.strip()]
    if file.name == "covost_v2.en_de.tsv":
        return len(lines) - 1
    return len(lines) if file.suffix == ".jsonl" else sum(".wav" in line for line in lines[1:])


def _read(command: list) -> Corpus:
    with contextlib.redirect_stderr(io.StringIO()):
        options = _parser().parse_args([*map(str, command), "--out", "none"])
    return READ[options.corpus].read(options)


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser


@functools.cache
def _inputs() -> tuple[Path, dict[Path, list]]:
    """Folder and files of this process."""
    folder = Path(tempfile.mkdtemp(prefix="manifests_"))
    (folder / "out/audio").mkdir(parents=True)
    return folder, build(folder)


@functools.cache
def _whole(file: Path) -> bytes:
    return file.read_bytes()


def keep(seed: int, path: Path) -> None:
    file, data = case(seed)
    path.with_name(f"{path.name}-{file.name}").write_bytes(data)


def begin() -> None:
    for command in set(map(tuple, _inputs()[1].values())):
        _read([*command])


if __name__ == "__main__":
    fuzzing.fuzz(fuzzing.arguments(__doc__).parse_args(), begin, outcome, {"rows", "error"}, keep)
