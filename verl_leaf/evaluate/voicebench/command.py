"""Command ``verl-leaf voicebench``: write answers into VoiceBench's files, and score the subsets that need no judge."""

import dataclasses
import json
from pathlib import Path

from verl_leaf.common.answers import Row, read_answers
from verl_leaf.common.console import Console
from verl_leaf.common.errors import errors_at
from verl_leaf.common.tables import show
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.rows import check_columns, reference_texts
from verl_leaf.evaluate.voicebench.files import write_answers
from verl_leaf.evaluate.voicebench.scores import JUDGED, PREFIX, score, subset_of


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("answers", type=Path, nargs="+", help="files of answers, one JSON object per line")
    add("--data", type=Path, required=True, help="parquet file from verl-leaf prepare voicebench")
    add("--out", type=Path, required=True, help="folder for VoiceBench's files and scores.json")


def main(options) -> int:
    """Score each file of answers, write VoiceBench's files and ``scores.json``, and print a table.

    A file contains the answers of one system, which gets the file's name: one JSON object per line with ``row``,
    ``text`` and, if it is not 0, ``sample``.

    Raises:
        ValueError: a file contains something else, or no answer to a row of VoiceBench.
    """
    files, out, console = options.answers, options.out, Console()
    names = [file.stem for file in files]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"{twice[0]}: two files of answers have this name. Rename one, because the written files get the same names"
        )
    rows = _rows(options.data)
    systems = {file.stem: list(read_answers(file, rows).values()) for file in files}
    for file in files:
        if not any(subset_of(answer.data_source) for answer in systems[file.stem]):
            raise ValueError(f"{file} contains no answer to a row of VoiceBench")
    lines = []
    record: dict[str, list[dict]] = {}
    for name, answers in systems.items():
        scores = score(answers)
        write_answers(answers, options.data, out, name)
        for measured in scores:
            result = "-" if measured.score is None else f"{measured.score:.1f}"
            subset, count = measured.data_source.removeprefix(PREFIX), str(len(measured.values))
            lines.append((name, subset, measured.name, result, count, str(measured.unread)))
            record.setdefault(name, []).append(dataclasses.asdict(measured) | {"score": measured.score})
        for source in sorted({answer.data_source for answer in answers if subset_of(answer.data_source) in JUDGED}):
            count = str(sum(answer.data_source == source for answer in answers))
            lines.append((name, source.removeprefix(PREFIX), "needs a judge", "", count, ""))
    (out / "scores.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    columns = ("system", "subset", "measure", "score", "answers", "not read")
    show("VoiceBench", columns, lines, words=3, console=console)
    console.print(f"Written: {out}")
    return 0


def _rows(data: Path) -> dict[int, Row]:
    """Return all rows of a parquet file, without audio."""
    file = RowFile(data)
    check_columns(str(data), file.columns)
    rows = {}
    for number, row in file.rows(columns=["data_source", "reward_model", "extra_info"]):
        with errors_at(f"{data}, row {number}"):
            references = reference_texts((row["reward_model"] or {}).get("ground_truth"))
        question = (row.get("extra_info") or {}).get("question") or ""
        rows[number] = Row(number, str(row["data_source"]), question, tuple(references), ())
    if not any(subset_of(row.data_source) for row in rows.values()):
        raise ValueError(f"{data} contains no row of VoiceBench, whose data source begins with {PREFIX}")
    return rows
