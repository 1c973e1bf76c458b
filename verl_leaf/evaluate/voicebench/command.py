"""``verl-leaf voicebench``: answers to VoiceBench's rows into its files, and their scores where none is a judge's."""

import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from verl_leaf.common.answers import Answer
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.rows import check_columns
from verl_leaf.evaluate.voicebench.files import write_answers
from verl_leaf.evaluate.voicebench.scores import JUDGED, PREFIX, score, subset_of


def voicebench(files: list[Path], data: Path, out: Path, console: Console) -> int:
    """Score each file of answers, write what VoiceBench reads and ``scores.json``, and show a table.

    Args:
        files: of answers, a system each, which is called as its file is: a JSON object per line with ``row``, ``text`` and,
            if it is not 0, ``sample``.
        data: parquet file that ``verl-leaf prepare voicebench`` has written.
        out: folder, made if need be.
        console: for the table.

    Raises:
        ValueError: a file holds something else, or no answer to a row of VoiceBench.
    """
    names = [file.stem for file in files]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]}: two files of answers have this name, which the files that are written have too")
    rows = _rows(data)
    read = {file.stem: _read(file, rows) for file in files}
    table = Table("system", "subset", "score", "", "answers", "not read", title="VoiceBench")
    record: dict[str, list[dict]] = {}
    for name, answers in read.items():
        write_answers(answers, data, out, name)
        for each in score(answers):
            result = "-" if each.score is None else f"{each.score:.1f}"
            subset, count = each.data_source.removeprefix(PREFIX), str(len(each.values))
            table.add_row(name, subset, result, each.name, count, f"{each.unread}")
            record.setdefault(name, []).append(dataclasses.asdict(each) | {"score": each.score})
        for source in sorted({answer.data_source for answer in answers if subset_of(answer.data_source) in JUDGED}):
            count = str(sum(answer.data_source == source for answer in answers))
            table.add_row(name, source.removeprefix(PREFIX), "", "needs a judge", count, "")
    (out / "scores.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    console.print(table)
    console.print(f"in {out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _rows(data: Path) -> dict[int, dict]:
    """All rows of a parquet file, without their audio."""
    file = RowFile(data)
    check_columns(str(data), file.columns)
    rows = dict(file.rows(columns=["data_source", "reward_model", "extra_info"]))
    if not any(subset_of(str(row["data_source"])) for row in rows.values()):
        raise ValueError(f"{data}: holds no row of VoiceBench, whose data source begins with {PREFIX}")
    return rows


def _read(file: Path, rows: dict[int, dict]) -> list[Answer]:
    """The answers to VoiceBench's rows in a file; of a line count its row, sample and text, all else is the row's."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    answers = []
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            row, sample, text = int(found["row"]), int(found.get("sample", 0)), str(found["text"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file}, line {number}: is no JSON object with row and text") from error
        if row not in rows:
            raise ValueError(f"{file}, line {number}: answers row {row}, and the data has {len(rows)} rows")
        own = rows[row]
        if found.get("data_source", own["data_source"]) != own["data_source"]:
            raise ValueError(
                f"{file}, line {number}: answers {found['data_source']}, but row {row} is of {own['data_source']}"
            )
        if subset_of(own["data_source"]):
            references = tuple(own["reward_model"]["ground_truth"])
            question = own["extra_info"]["question"]
            answers.append(Answer(row, sample, own["data_source"], question, references, (), text))
    if not answers:
        raise ValueError(f"{file}: holds no answer to a row of VoiceBench")
    return answers
