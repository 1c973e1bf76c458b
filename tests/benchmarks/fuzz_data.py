"""Damaged and odd parquet files in their thousands: each must end as rows or as a one-line error, soon and in little memory.

    python -m tests.benchmarks.fuzz_data --model work/spoken_german/model [--cases 10000] [--seed 0]

A case is a small file of rows with wounds in its bytes, or with a value that is not what it should be. It goes through the
trainer's dataset and through `verl-leaf data`, which must agree. Prints how many ended how; anything else is kept in a
folder of its own, with the seed that makes it again. The model is one that examples/spoken_german/prepare.py makes.
"""

import contextlib
import copy
import functools
import io
import random
import tempfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile
from omegaconf import OmegaConf

from tests.benchmarks import fuzzing
from verl_leaf.cli import main as verl_leaf
from verl_leaf.runs.swap import write_rows
from verl_leaf.speech.dataset import SpeechDataset

GOOD = {"rows", "error"}
COLUMNS = ("data_source", "prompt", "audios", "reward_model", "extra_info")
WRITERS = [
    {"compression": "NONE"},
    {"compression": "SNAPPY", "row_group_size": 1},
    {"compression": "ZSTD", "data_page_version": "2.0"},
    {"compression": "NONE", "use_dictionary": False, "write_page_checksum": True},
    {"compression": "NONE", "store_schema": False, "write_page_index": True},
]
VALUES = [
    *(None, True, 0, -1, 2**62, 0.5, 42.0, float("nan"), "", "x", "<audio>", "<audio><audio>", "<image>", "\u2028"),
    *(b"\xff", [], [None], [[]], ["x", "y"], {"path": None}, {"type": "audio", "audio": None}, {"type": "text"}),
    *([{"type": "text", "text": "Hi"}], [{"role": "user", "content": None}], {"role": "user"}),
]


@functools.cache
def whole_rows() -> dict[str, list[dict]]:
    """Three rows with audio as bytes, by the form of the rest."""
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.sin(np.arange(3200) * 0.05), 16000, format="FLAC")
    audio = {"bytes": buffer.getvalue(), "path": None}
    plain = [
        {
            "data_source": "fuzz",
            "prompt": [{"role": "user", "content": f"<audio>Translate {number}."}],
            "audios": [audio],
            "reward_model": {"style": "rule", "ground_truth": f"Ja {number}"},
            "extra_info": {"index": number},
        }
        for number in range(3)
    ]
    parts = [{"type": "audio", "audio": audio}, {"type": "text", "text": "Translate."}]
    in_parts = [{**row, "prompt": [{"role": "user", "content": parts}], "audios": []} for row in plain]
    several = [{**row, "reward_model": {"ground_truth": ["ja", "doch"]}, "data_source": 7} for row in plain]
    return {"plain": plain, "parts": in_parts, "several": several}


@functools.cache
def whole_files() -> list[bytes]:
    files = []
    for rows in whole_rows().values():
        for options in WRITERS:
            buffer = io.BytesIO()
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, **options)
            files.append(buffer.getvalue())
    return files


def wound(data: bytes, generator: random.Random) -> bytes:
    """One to four wounds, most of them in the footer, which says where everything is."""
    data = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        start = 0 if generator.random() < 0.4 else max(0, len(data) - 3000)
        where = generator.randrange(start, len(data)) if len(data) > start else 0
        kind = generator.randrange(6)
        if kind == 0:
            data[where : where + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            data[where : where + 1] = bytes([data[where] ^ (1 << generator.randrange(8))]) if data else b"x"
        elif kind == 2:
            del data[where : where + generator.randint(1, 64)]
        elif kind == 3:
            data[where:where] = generator.randbytes(generator.randint(1, 64))
        elif kind == 4 and generator.random() < 0.2:
            del data[where:]
        else:
            data[where : where + 8] = bytes(8)
    return bytes(data)


def write_odd(file: Path, generator: random.Random) -> None:
    """Rows with one value that is not what it should be: in one row, whose column then is JSON, or in all."""
    rows = [copy.deepcopy(row) for row in generator.choice(list(whole_rows().values()))]
    column, value, depth = generator.choice(COLUMNS), generator.choice(VALUES), generator.randrange(5)
    one_row = generator.random() < 0.3
    for row in rows[:1] if one_row else rows:
        _replace(row, column, copy.deepcopy(value), depth, generator)
    if generator.random() < 0.1:
        for row in rows:
            row.pop(column)
    try:
        write_rows(rows, file, [column] if one_row and column != "audios" and column in rows[0] else [])
    except (pyarrow.ArrowException, TypeError, OverflowError):  # nothing that could be written
        write_rows(whole_rows()["plain"], file)


def _replace(holder, key, value, depth: int, generator: random.Random) -> None:
    inner = holder[key]
    keys = list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
    if depth and keys:
        _replace(inner, generator.choice(keys), value, depth - 1, generator)
    else:
        holder[key] = value


def write_case(file: Path, seed: int) -> None:
    generator = random.Random(seed)
    if generator.random() < 0.5:
        write_odd(file, generator)
    else:
        file.write_bytes(wound(generator.choice(whole_files()), generator))


def outcome(seed: int) -> str:
    """How a case ends, in a process whose memory and time are limited."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "case.parquet")
        write_case(file, seed)
        loaded = _attempt(lambda: _load(file, folder))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            shown = _attempt(lambda: "error" if verl_leaf(["data", str(file)]) else "rows")
    if "Traceback" in said.getvalue():
        return "traceback"
    if loaded in GOOD and shown in GOOD and (loaded, shown) not in AGREEING:
        return f"dataset {loaded}, data {shown}"
    return loaded if loaded not in GOOD else shown if shown not in GOOD else loaded


# A reference that only a reward of one's own can score is an error of `data` alone.
AGREEING = (("rows", "rows"), ("error", "error"), ("rows", "error"))


def _load(file: Path, folder: str) -> str:
    config = OmegaConf.create({"max_prompt_length": 4000, "cache_dir": folder})
    rows = SpeechDataset(str(file), _processor.tokenizer, config, _processor)
    for row in rows:
        if not row["raw_prompt"] or not isinstance(row["data_source"], str):
            return "bad row"
    return "rows"


def _attempt(function) -> str:
    try:
        return function()
    except ValueError as error:
        return "error" if "\n" not in str(error) and len(str(error)) < 1000 else "long error"
    except BaseException as error:  # what must not be; it is counted by its name
        return type(error).__name__


_processor = None


def begin(model: str) -> None:
    from verl.utils import hf_processor

    global _processor
    _processor = hf_processor(model)
    outcome(0)


def keep(seed: int, path: Path) -> None:
    write_case(path.with_name(f"{path.name}.parquet"), seed)


def main() -> None:
    parser = fuzzing.arguments(__doc__)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    fuzzing.fuzz(options, functools.partial(begin, options.model), outcome, GOOD, keep)


if __name__ == "__main__":
    main()
