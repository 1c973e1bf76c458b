"""What became of a corpus: ``report.json``, and the table at the end of ``verl-leaf prepare``."""

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
    """Write ``report.json`` and show its numbers; rows written and rows left out add up to the rows of the input.

    Args:
        out: folder of the report.
        corpus: that was written.
        shards: records of the files: ``split``, ``file``, ``rows`` (seconds and words of the first answer of each) and
            ``rejected``.
        rejected: all rows left out, as in ``rejected.jsonl``.

    Returns:
        Rows written, by split.
    """
    reasons = Counter(_kind(entry["reason"]) for entry in rejected).most_common()
    ids = Counter(item.id for item in corpus.items)
    repeated = [id for id, count in ids.items() if count > 1]
    splits, lines = {}, []
    for split in SPLITS:
        written_shards = [shard for shard in shards if shard["split"] == split and shard["rows"]]
        if not written_shards:
            continue
        seconds, words = zip(*(row for shard in written_shards for row in shard["rows"]), strict=True)
        hours = sum(seconds) / 3600
        splits[split] = {"rows": len(seconds), "hours": hours, "files": [shard["file"] for shard in written_shards]}
        lines.append((split, str(len(seconds)), f"{hours:.2f}", histogram(seconds), histogram(words)))
    written = sum(entry["rows"] for entry in splits.values())
    content = {
        "data_source": corpus.data_source,
        "rows_read": written + len(rejected),
        "rows_written": written,
        "rows_left_out": len(rejected),
        "ids_of_several_rows": len(repeated),
        "splits": splits,
        "left_out": dict(reasons),
    }
    write_file(out / "report.json", json.dumps(content, indent=1, ensure_ascii=False))
    console = Console()
    if splits:
        columns = ("split", "rows", "hours", "seconds of audio", "words of an answer")
        show(corpus.data_source, columns, lines, words=1, console=console)
    _print_counts(console, out, content, reasons, repeated)
    return {split: entry["rows"] for split, entry in splits.items()}


def _print_counts(console: Console, out: Path, content: dict, reasons: list, repeated: list[str]) -> None:
    lines = [
        f"{content['rows_read']} rows read, {content['rows_written']} written, {content['rows_left_out']} left out"
    ]
    lines += [f"{count} left out: {reason}" for reason, count in reasons[:SHOWN_REASONS]]
    if others := sum(count for _, count in reasons[SHOWN_REASONS:]):
        lines.append(f"{others} left out for other reasons")
    if repeated:
        lines.append(f"{len(repeated)} id(s) are of several rows, {repeated[0]!r} is the first")
    lines.append(f"in {out}" + (", rejected.jsonl names every row left out" if reasons else ""))
    for line in lines:
        console.print(line)


def _kind(reason: str) -> str:
    """A reason without what is different in each row: the name before a colon, and numbers."""
    return re.sub(r"\d[\d.]*", "N", reason.rsplit(": ", 1)[-1])


def histogram(values) -> str:
    """Smallest value, the shape of the distribution in ten bars, and the largest."""
    counts, _ = np.histogram(values, bins=10)
    bars = "".join(BARS[-(-8 * count // counts.max())] for count in counts)
    return f"{min(values):.3g} {bars} {max(values):.3g}"
