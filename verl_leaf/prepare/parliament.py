"""Parliament speech with LongAudio's questions: Europarl-ST and VoxPopuli, English.

Splits are by a hash of the question's id, a tenth each for test and validation; 40 s at most, no multiple choice.
"""

import ast
import csv
import functools
import gzip
import re
from pathlib import Path

import pyarrow.parquet

from verl_leaf.prepare import longaudio
from verl_leaf.prepare.corpus import Corpus, Segment, need

HELP = "Europarl-ST and VoxPopuli: questions about parliament speech (LongAudio)"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--questions", type=Path, help="folder of {Europarl,VoxPopuli}_LongAudio.json (default: the hub)"
    )
    parser.add_argument("--europarl", type=Path, help="Europarl-ST v1.1: the folder of <language>/audios/")
    parser.add_argument(
        "--voxpopuli",
        type=Path,
        help="VoxPopuli: a folder of the hub's parquet files, or of en/<year>/<session>_en.ogg and asr_en.tsv.gz",
    )


def read(options) -> Corpus:
    if options.europarl is None and options.voxpopuli is None:
        raise ValueError("give --europarl, --voxpopuli or both")
    corpus = Corpus("parliament_longaudio", longaudio.PHRASINGS, max_seconds=longaudio.MAX_SECONDS)
    if options.europarl is not None:
        need(options.europarl, "Europarl-ST")
        for item in longaudio.read(
            options.questions, "Europarl_LongAudio.json", functools.partial(_europarl, options.europarl)
        ):
            corpus.add(item)
    if options.voxpopuli is not None:
        for item in longaudio.read(options.questions, "VoxPopuli_LongAudio.json", _voxpopuli(options.voxpopuli)):
            corpus.add(item)
    return corpus


def _europarl(root: Path, sound: str) -> tuple[Segment, ...] | str:
    name = re.fullmatch(r"(?P<base>(?P<language>[^.]+)\..+)_(?P<start>[\d.]+)_(?P<end>[\d.]+)\.wav", Path(sound).name)
    if name is None:
        return f"{sound}: is not named <base>_<start>_<end>.wav"
    file = root / name["language"] / "audios" / f"{name['base']}.m4a"
    if not file.is_file():
        return f"{file}: no such file"
    start, end = float(name["start"]), float(name["end"])
    return (Segment(str(file), start, end - start),) if end > start else f"{sound}: ends before it begins"


def _voxpopuli(root: Path) -> longaudio.Find:
    """By the hub's rows where there are any, else by the sessions' recordings."""
    need(root, "VoxPopuli")
    rows = {}
    for file in sorted(root.rglob("*.parquet")):
        names = pyarrow.parquet.read_table(file, columns=["audio_id"])["audio_id"].to_pylist()
        rows |= {name: (Segment(str(file), row=number),) for number, name in enumerate(names)}
    if not rows:
        rows = _sessions(root)
    return lambda sound: rows.get(Path(sound).stem) or f"{sound}: not in {root}"


def _sessions(root: Path) -> dict[str, tuple[Segment, ...] | str]:
    """Segments by their id: the stretches of a session in which there is a voice."""
    table = next((root / name for name in ("asr_en.tsv.gz", "en/asr_en.tsv.gz") if (root / name).is_file()), None)
    if table is None:
        raise ValueError(f"{root}: neither parquet files with audio_id and audio, nor asr_en.tsv.gz")
    segments = {}
    with gzip.open(table, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="|", quoting=csv.QUOTE_NONE):
            session = row["session_id"]
            file = root / "en" / session[:4] / f"{session}_en.ogg"
            if file.is_file():
                segments[f"{session}-{row['id_']}"] = tuple(
                    Segment(str(file), start, end - start) for start, end in ast.literal_eval(row["vad"])
                )
            else:
                segments[f"{session}-{row['id_']}"] = f"{file}: no such file"
    return segments
