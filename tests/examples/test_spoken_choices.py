"""Spoken questions with choices: the table, the prompts of the warm start, and all of the example."""

import json
import random

import pytest

from examples.spoken_choices import questions
from examples.spoken_german import phrases
from tests.helpers import corpora
from tests.helpers.corpora import everything, prepare
from tests.helpers.recipe import run_example
from verl_leaf.rewards import choice_format

SENTENCES = phrases.draw(24, random.Random(0))


def test_the_warm_start_asks_what_the_prepared_rows_ask(tmp_path):
    corpora.write(tmp_path / "0.wav", corpora.tone(300, 0.2))
    table = [questions.row(sentence) | {"audio": "0.wav", "split": "train"} for sentence in SENTENCES]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, table)))
    assert prepare("audioqa", tmp_path / "rows.jsonl", "--out", tmp_path / "out", "--prompt", questions.PROMPT) == 0
    found = everything(tmp_path / "out")
    scores, rng = [], random.Random(0)
    for sentence in SENTENCES:
        row, exercise = found[phrases.english(sentence)], questions.exercises(sentence)[questions.NAME]
        assert row["prompt"][0]["content"] == f"<audio>{exercise.instruction}"
        truth, info = row["reward_model"]["ground_truth"], row["extra_info"]
        assert choice_format("s", exercise.reference, truth, info, thinking=True)["score"] == 1
        scores += [choice_format("s", exercise.undecided(rng), truth, info)["choice"] for _ in range(20)]
    assert questions.RIGHT_SHARE - 0.1 < sum(scores) / len(scores) < questions.RIGHT_SHARE + 0.1
    assert {row["extra_info"]["category"] for row in found.values()} == set(questions.QUESTIONS)


@pytest.mark.e2e
@pytest.mark.thorough
def test_the_example(tmp_path):
    """Everything that ``run.sh`` does, with a random model, on a few clips and for a step."""
    short = ("trainer.total_training_steps=1", "trainer.save_freq=1", "trainer.test_freq=1")
    run_example("spoken_choices", tmp_path, *short, CLIPS="32", STEPS="0")
    summary = json.loads((tmp_path / "evaluation/summary.json").read_text())
    together = [line for line in summary["choices"] if line["group"] == "together"]
    assert [line["system"] for line in together] == ["before", "after"]
    assert all(
        line[control] is not None for line in together for control in ("random choice", "no audio", "wrong audio")
    )
    assert {line["against"] for line in summary["pairs"]} == {
        "before",
        *(f"{system}, {control} audio" for system in ("before", "after") for control in ("no", "wrong")),
    }
    answers = [file.read_text().count("\n") for file in tmp_path.glob("evaluation/**/answers/*.jsonl")]
    assert answers == [8] * 6
