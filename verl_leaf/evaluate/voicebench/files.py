"""VoiceBench's files of answers for its own scripts: one JSON object per line, with the row's fields and the response."""

import json
from collections.abc import Sequence
from pathlib import Path

from verl_leaf.common.answers import Answer
from verl_leaf.data.parquet import RowFile
from verl_leaf.evaluate.voicebench.scores import PREFIX, subset_of


def write_answers(answers: Sequence[Answer], data: Path, folder: Path, name: str) -> list[Path]:
    """Write ``{name}-{subset}-{split}-audio.jsonl`` per subset and split, and ``...-audio-{pass}.jsonl`` for further passes.

    Answers to other data sources are ignored.

    Raises:
        ValueError: the file cannot be read, an answer belongs to no row of it, or a row lacks something.
    """
    rows = dict(RowFile(data).rows(columns=["data_source", "extra_info"]))
    lines: dict[str, list[str]] = {}
    for answer in answers:
        if subset_of(answer.data_source) is None:
            continue
        if answer.row not in rows or rows[answer.row]["data_source"] != answer.data_source:
            raise ValueError(f"{data} has no row {answer.row} of {answer.data_source}, to which {name} has an answer")
        which = answer.data_source.removeprefix(PREFIX).replace("/", "-")
        file = f"{name}-{which}-audio{f'-{answer.sample}' if answer.sample else ''}.jsonl"
        info = rows[answer.row].get("extra_info") or {}
        if not {"question", "id"} <= info.keys():
            raise ValueError(
                f"{data}, row {answer.row}: extra_info contains no question and id. Make the file with "
                "`verl-leaf prepare voicebench`"
            )
        record = _fields(answer, info) | {"response": answer.text}
        lines.setdefault(file, []).append(json.dumps(record, ensure_ascii=False) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for file, of_file in lines.items():
        (folder / file).write_text("".join(of_file), encoding="utf-8")
    return [folder / file for file in lines]


def _fields(answer: Answer, info: dict) -> dict:
    """Return the fields of VoiceBench's row, except its audio."""
    fields = {"prompt": info["question"]}
    if subset_of(answer.data_source) == "ifeval":
        return fields | json.loads(answer.references[0])
    if answer.references[0]:
        fields["reference"] = answer.references[0]
    if subset_of(answer.data_source) == "bbh":
        fields["id"] = info["id"]
    return fields
