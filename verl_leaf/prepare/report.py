"""The report on a prepared corpus: ``report.json``, and the table that ``verl-leaf prepare`` prints."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np

from verl_leaf.common.console import Console
from verl_leaf.common.files import write_file
from verl_leaf.common.tables import show
from verl_leaf.prepare.corpus import SPLITS, Corpus

BARS = " ▁▂▃▄▅▆▇█"
SHOWN_REASONS = 10


def write_report(out: Path, corpus: Corpus, shards: list[dict], rejected: list[dict]) -> dict[str, int]:
    """Write ``report.json`` and print its numbers. Rows written and rows left out add up to the rows read.

    Args:
        shards: records of the files: ``split``, ``file``, ``rows`` (for each row its seconds, the words of its first
            answer, and whether nothing can be heard in a clip) and ``rejected``.
    """
    reasons = Counter(_kind(entry["reason"]) for entry in rejected).most_common()
    ids = Counter(item.id for item in corpus.items)
    repeated = [id for id, count in ids.items() if count > 1]
    splits, table, silent = {}, [], 0
    for split in SPLITS:
        written_shards = [shard for shard in shards if shard["split"] == split and shard["rows"]]
        if not written_shards:
            continue
        seconds, words, unheard = zip(*(row for shard in written_shards for row in shard["rows"]), strict=True)
        silent += sum(unheard)
        hours = sum(seconds) / 3600
        splits[split] = {"rows": len(seconds), "hours": hours, "files": [shard["file"] for shard in written_shards]}
        table.append((split, str(len(seconds)), f"{hours:.2f}", histogram(seconds), histogram(words)))
    written = sum(entry["rows"] for entry in splits.values())
    content = {
        "data_source": corpus.data_source,
        "rows_read": written + len(rejected),
        "rows_written": written,
        "rows_left_out": len(rejected),
        "ids_of_several_rows": len(repeated),
        "rows_with_nothing_to_hear": silent,
        "splits": splits,
        "left_out": dict(reasons),
        **corpus.facts,
    }
    write_file(out / "report.json", json.dumps(content, indent=1, ensure_ascii=False))
    lines = [f"{written + len(rejected)} rows read, {written} written, {len(rejected)} left out"]
    lines += [f"{count} left out: {reason}" for reason, count in reasons[:SHOWN_REASONS]]
    if others := sum(count for _, count in reasons[SHOWN_REASONS:]):
        lines.append(f"{others} left out for other reasons")
    if repeated:
        lines.append(f"{len(repeated)} id(s) occur in several rows; the first is {repeated[0]!r}")
    if silent:
        lines.append(f"{silent} row(s) have a clip in which nothing can be heard. `verl-leaf data FILE` lists them")
    lines += corpus.notes
    lines.append(f"Written: {out}" + ("; rejected.jsonl lists every row left out" if reasons else ""))
    console = Console()
    if splits:
        columns = ("split", "rows", "hours", "seconds of audio", "words of an answer")
        show(corpus.data_source, columns, table, words=1, console=console)
    for line in lines:
        console.print(line)
    return {split: entry["rows"] for split, entry in splits.items()}


def _kind(reason: str) -> str:
    """Return a reason without the parts that differ between rows: numbers, and a name before a colon."""
    return re.sub(r"\d[\d.]*", "N", reason.rsplit(": ", 1)[-1])


def histogram(values) -> str:
    """Return the smallest value, the distribution in ten bars, and the largest value."""
    counts, _ = np.histogram(values, bins=10)
    bars = "".join(BARS[-(-8 * count // counts.max())] for count in counts)
    return f"{min(values):.3g} {bars} {max(values):.3g}"
