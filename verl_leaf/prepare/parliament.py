"""Parliament speech with LongAudio's questions: Europarl-ST and VoxPopuli, English.

Splits are by a hash of the question's id: a tenth each for test and validation. Audio of more than 40 s and multiple-choice
questions are left out.
"""

import ast
import functools
import os
import re
from pathlib import Path

from verl_leaf.data.parquet import RowFile
from verl_leaf.prepare import longaudio
from verl_leaf.prepare.corpus import Corpus, Segment, need
from verl_leaf.prepare.tables import check_names, read_lines_of_fields

HELP = "Europarl-ST and VoxPopuli: questions about parliament speech (LongAudio)"


def add_arguments(parser) -> None:
    add = parser.add_argument
    add("--questions", type=Path, help="folder of {Europarl,VoxPopuli}_LongAudio.json (default: the hub)")
    add("--europarl", type=Path, help="Europarl-ST v1.1's folder with <language>/audios/")
    add(
        "--voxpopuli",
        type=Path,
        help="VoxPopuli's folder with the hub's parquet files, or with en/<year>/<session>_en.ogg and asr_en.tsv.gz",
    )


def read(options) -> Corpus:
    if options.europarl is None and options.voxpopuli is None:
        raise ValueError("there is nothing to read. Give --europarl, --voxpopuli or both")
    corpus = Corpus("parliament_longaudio", longaudio.PHRASINGS, max_seconds=longaudio.MAX_SECONDS)
    if options.europarl is not None:
        need(options.europarl, "Europarl-ST")
        find = functools.partial(_europarl, options.europarl)
        for item in longaudio.read(options.questions, "Europarl_LongAudio.json", find):
            corpus.add(item)
    if options.voxpopuli is not None:
        for item in longaudio.read(options.questions, "VoxPopuli_LongAudio.json", _voxpopuli(options.voxpopuli)):
            corpus.add(item)
    return corpus


def _europarl(root: Path, sound: str) -> tuple[Segment, ...]:
    name = re.fullmatch(r"(([^.]+)\..+)_([0-9]+(?:\.[0-9]+)?)_([0-9]+(?:\.[0-9]+)?)\.wav", Path(sound).name)
    if name is None:
        raise ValueError(f"{sound}: it is not named <base>_<start>_<end>.wav")
    base, language, start, end = name[1], name[2], float(name[3]), float(name[4])
    if start >= end:
        raise ValueError(f"{sound}: it ends before it begins")
    file = root / language / "audios" / f"{base}.m4a"
    if not os.path.isfile(file):
        raise ValueError(f"{file}: no such file")
    return (Segment(str(file), start, end - start),)


def _voxpopuli(root: Path) -> longaudio.Find:
    """Return a search in the hub's rows if there are any, otherwise in the sessions' recordings."""
    need(root, "VoxPopuli")
    rows, unread = _hub_rows(root)
    problem = f" ({len(unread)} of its parquet files cannot be used: {unread[0]})" if unread else ""
    sessions = {} if rows else _sessions(root, problem)

    def find(sound: str) -> tuple[Segment, ...]:
        name = Path(sound).stem
        if name in rows:
            return (rows[name],)
        if name in sessions:
            return _voices(root, *sessions[name])
        raise ValueError(f"{sound}: it is not in {root}{problem}")

    return find


def _hub_rows(root: Path) -> tuple[dict[str, Segment], list[str]]:
    """Return the rows of the hub's parquet files by ``audio_id``, and why some files cannot be used."""
    rows: dict[str, Segment] = {}
    unread = []
    for file in sorted(root.rglob("*.parquet")):
        if any(part.startswith(".") for part in file.relative_to(root).parts):
            continue
        try:
            table = RowFile(file)
            check_names(file, table.columns, ["audio_id", "audio"])
            for number, row in table.rows(columns=["audio_id"]):
                rows.setdefault(row["audio_id"], Segment(str(file), row=number))
        except ValueError as error:
            unread.append(str(error))
    return rows, unread


def _sessions(root: Path, problem: str) -> dict[str, tuple[str, str]]:
    """Return session and times of speech, by the id of a segment."""
    table = next((root / name for name in ("asr_en.tsv.gz", "en/asr_en.tsv.gz") if (root / name).is_file()), None)
    if table is None:
        raise ValueError(f"{root} contains neither parquet files with audio_id and audio, nor asr_en.tsv.gz{problem}")
    sessions = {}
    for _, row in read_lines_of_fields(table, ("session_id", "id_", "vad"), "|"):
        if isinstance(row, dict):
            sessions[f"{row['session_id']}-{row['id_']}"] = (row["session_id"], row["vad"])
    return sessions


def _voices(root: Path, session: str, times: str) -> tuple[Segment, ...]:
    file = root / "en" / session[:4] / f"{session}_en.ogg"
    if not os.path.isfile(file):
        raise ValueError(f"{file}: no such file")
    try:
        stretches = [(float(start), float(end)) for start, end in ast.literal_eval(times)]
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        stretches = []
    if not stretches or not all(0 <= start < end for start, end in stretches):
        raise ValueError(f"{session}: asr_en.tsv.gz contains invalid times of speech, {times[:40]!r}")
    return tuple(Segment(str(file), start, end - start) for start, end in stretches)
