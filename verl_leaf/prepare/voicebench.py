"""VoiceBench (hub data set hlt-lab/voicebench): spoken questions to a voice assistant, all for test.

The prompt consists of the recording only. What was said is in extra_info.question. Each subset is a separate data source.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.data.parquet import RowFile
from verl_leaf.prepare.corpus import TEST, Corpus, Item, Rejected, Segment, need, text_of
from verl_leaf.prepare.tables import check_names, read_parquet

HELP = "VoiceBench: spoken questions to a voice assistant"
# Columns of a subset except audio and prompt.
SUBSETS: dict[str, tuple[str, ...]] = {
    "alpacaeval": (),
    "alpacaeval_full": (),
    "commoneval": (),
    "wildvoice": (),
    "sd-qa": ("reference",),
    "mmsu": ("reference",),
    "openbookqa": ("reference",),
    "bbh": ("reference", "id"),
    "ifeval": ("key", "instruction_id_list", "kwargs"),
    "advbench": (),
}


def add_arguments(parser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set, with a folder per subset")
    parser.add_argument(
        "--subsets",
        nargs="+",
        metavar="SUBSET",
        help=f"some of {', '.join(SUBSETS)}; sd-qa/usa is one split of a subset (default: all that exist)",
    )


def read(options) -> Corpus:
    if options.prompt is not None:
        raise ValueError("--prompt: VoiceBench's prompt consists of the recording only. Remove --prompt")
    need(options.data, "VoiceBench's folder, with a folder per subset")
    corpus = Corpus("voicebench", (PLACEHOLDER,))
    for name in options.subsets or [name for name in SUBSETS if (options.data / name).is_dir()]:
        subset, _, split = name.partition("/")
        if subset not in SUBSETS:
            raise ValueError(
                f"--subsets {name}: choose from {', '.join(SUBSETS)}. mtbench is not supported, because it has several turns"
            )
        for of_file, file in _files(options.data / subset, split):
            for item in _items(file, subset, of_file):
                corpus.add(item)
    if not corpus.items and not corpus.rejected:
        raise ValueError(f"{options.data} contains no folder of a subset ({', '.join(SUBSETS)})")
    return corpus


def _files(folder: Path, split: str) -> Iterator[tuple[str, Path]]:
    """Return the files of a subset with their splits, which begin the names, as in ``usa-00000-of-00001.parquet``."""
    need(folder, "a subset of VoiceBench")
    named = ((re.fullmatch(r"(.+)-\d+-of-\d+\.parquet", file.name), file) for file in sorted(folder.iterdir()))
    files = [(match[1], file) for match, file in named if match and not file.name.startswith(".")]
    wanted = [(of_file, file) for of_file, file in files if split in ("", of_file)]
    if not wanted:
        there = ", ".join(sorted({of_file for of_file, _ in files})) or "none"
        raise ValueError(
            f"{folder}: there is no file {split or 'SPLIT'}-00000-of-00001.parquet. The splits are {there}"
        )
    return iter(wanted)


def _items(file: Path, subset: str, split: str) -> Iterator[Item | Rejected]:
    check_names(file, RowFile(file).columns, ("audio",))  # large, so it is read later
    for number, (place, row) in enumerate(read_parquet(file, ("prompt", *SUBSETS[subset]))):
        source, id = f"{subset}/{place}", f"{subset}/{split}/{number}"
        try:
            question = text_of(row["prompt"], "prompt")
            id = text_of(row.get("id"), "id") or id
            answer = _instructions(row) if subset == "ifeval" else text_of(row.get("reference"), "reference")
            if not question or (SUBSETS[subset] and not answer):
                raise ValueError("it has no prompt" if not question else "it has no reference")
        except ValueError as error:
            yield Rejected(id, source, str(error))
            continue
        audio = ((Segment(str(file), row=number),),)
        name = f"voicebench/{subset}/{split}"
        yield Item(id, TEST, audio, (answer,), question, PLACEHOLDER, source=source, data_source=name)


def _instructions(row: dict) -> str:
    """Return IFEval's instructions and their arguments as JSON, without null values."""
    names, wanted = row["instruction_id_list"], row["kwargs"]
    if not names or wanted is None or len(names) != len(wanted):
        raise ValueError("it does not have one set of kwargs for each instruction")
    kwargs = [{key: value for key, value in (arguments or {}).items() if value is not None} for arguments in wanted]
    return json.dumps({"key": row["key"], "instruction_id_list": names, "kwargs": kwargs}, ensure_ascii=False)
