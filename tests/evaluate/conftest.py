"""A data set of four questions, and answers to it."""

import json
from pathlib import Path

import pytest

from verl_leaf.cli import main
from verl_leaf.runs.swap import write_rows

REFERENCES = ["zwei Hunde schlafen", "drei Katzen spielen im Garten", "ein Kind singt", "alte Leute lachen laut"]


@pytest.fixture
def data(tmp_path) -> Path:
    """Rows 0 and 1 share a clip; rows 2 and 3 are of another source."""
    rows = [
        {
            "data_source": "animals" if n < 2 else "people",
            "prompt": [{"role": "user", "content": "<audio>Translate into German."}],
            "audios": [f"clip{max(n, 1)}.wav"],
            "reward_model": {"style": "rule", "ground_truth": reference},
            "extra_info": {"split": "validation"},
        }
        for n, reference in enumerate(REFERENCES)
    ]
    write_rows(rows, tmp_path / "val.parquet")
    return tmp_path / "val.parquet"


@pytest.fixture
def answers(tmp_path):
    """Write a file of answers: texts, or ``(row, sample, text)``."""

    def write(name: str, texts: list) -> Path:
        triples = [(n, 0, text) if isinstance(text, str) else text for n, text in enumerate(texts)]
        lines = [json.dumps({"row": row, "sample": sample, "text": text}) for row, sample, text in triples]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    return write


def evaluate(*arguments) -> int:
    return main(["evaluate", *map(str, arguments)])


@pytest.fixture
def refused(capsys):
    """The error of a command that is refused."""

    def run(*arguments) -> str:
        assert evaluate(*arguments) == 2
        return capsys.readouterr().err

    return run
