"""What a start takes before the engines: rows that are checked, and the same rows again.

    python -m tests.benchmarks.start_up [--rows 10000 100000] [--seconds 10]

Each line is two starts, one after the other: seconds, CPU seconds of all processes and the most memory of the main one, and
the size of what the first start kept. Rows name 100 clips of noise in turn.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile
from rich.table import Table

from verl_leaf.common.console import Console

CLIPS = 100


def write_rows(folder: Path, rows: int) -> Path:
    """A parquet file of so many rows."""
    batch = pyarrow.Table.from_pylist(
        [
            {
                "data_source": "noise",
                "prompt": [{"role": "user", "content": "<audio>Translate into German."}],
                "audios": [f"{number}.wav"],
                "reward_model": {"style": "rule", "ground_truth": f"Nichts als Rauschen, zum {number}. Mal."},
            }
            for number in range(CLIPS)
        ]
    )
    pyarrow.parquet.write_table(pyarrow.concat_tables([batch] * (rows // CLIPS)), folder / "rows.parquet")
    return folder / "rows.parquet"


def start(file: Path, results) -> None:
    """Build the dataset, and put seconds, CPU seconds and MiB into ``results``."""
    import verl  # noqa: F401  (loads its plugins, ours among them)
    from omegaconf import OmegaConf

    from examples.spoken_german.tiny_model import build_processor
    from verl_leaf.speech import dataset

    dataset.WORTH_KEEPING = 0.0
    processor, began, cpu = build_processor(), time.perf_counter(), cpu_seconds()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = OmegaConf.create({"max_prompt_length": 1024, "cache_dir": str(file.parent / "cache")})
    found = dataset.SpeechDataset(str(file), processor.tokenizer, config, processor)
    assert found[len(found) - 1]["raw_prompt"]
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    results.put((time.perf_counter() - began, cpu_seconds() - cpu, mib))


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it started and that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    arguments.add_argument("--seconds", type=float, default=10.0, help="of each clip")
    options = arguments.parse_args()
    processes, table = (
        multiprocessing.get_context("spawn"),
        Table("rows", "s", "CPU s", "MiB", "s again", "CPU s again", "MiB again", "kept, MiB"),
    )
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(CLIPS):
                noise = np.random.default_rng(number).normal(size=round(16000 * options.seconds)) / 9
                soundfile.write(Path(folder, f"{number}.wav"), noise, 16000)
            file, results, cells = write_rows(Path(folder), rows), processes.Queue(), []
            for _ in range(2):
                process = processes.Process(target=start, args=(file, results))
                process.start()
                cells += [f"{value:.1f}" for value in results.get()]
                process.join()
            kept = sum(each.stat().st_size for each in Path(folder, "cache").iterdir())
        table.add_row(f"{rows:,}", *cells, f"{kept / 2**20:.1f}")
        print(rows, *cells, flush=True)
    Console().print(table)


if __name__ == "__main__":
    main()
