"""Answers on disk: what was written is there, a torn line is not, and nothing is mixed."""

import json

import pytest

from verl_leaf.common.answers import read_answers
from verl_leaf.data.parquet import RowFile
from verl_leaf.evaluate.answer_file import AnswerFile
from verl_leaf.evaluate.command import vllm_arguments
from verl_leaf.evaluate.data import Data
from verl_leaf.evaluate.generate import Sampling, made_of
from verl_leaf.evaluate.systems import System
from verl_leaf.runs.swap import write_rows

MADE_OF = {"model": "abc", "sampling": {"seed": 0}}


@pytest.fixture
def rows(data):
    return Data(data).rows


def test_a_torn_last_line_is_dropped_and_written_again(rows, tmp_path):
    path = tmp_path / "answers/x.jsonl"
    answers = AnswerFile(path, MADE_OF)
    for row in (0, 2):
        answers.append(rows[row].answer(0, f"Ärger {row}", seed=7).to_json())
    whole = path.read_bytes()
    for end in range(1, len(whole)):
        path.write_bytes(whole[:end])
        again = AnswerFile(path, MADE_OF)
        assert sorted(again.values) == [(0, 0), (2, 0)][: whole[:end].count(b"\n")]
        again.append(rows[3].answer(0, "x").to_json())
        assert path.read_bytes().count(b"\n") == whole[:end].count(b"\n") + 1
        assert (3, 0) in AnswerFile(path, MADE_OF).values


def test_a_text_may_hold_what_ends_a_line_elsewhere(rows, tmp_path):
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    written = AnswerFile(tmp_path / "x.jsonl", MADE_OF)
    for row in rows[:2]:
        written.append(row.answer(0, text).to_json())
    elsewhere = tmp_path / "y.jsonl"
    elsewhere.write_text("".join(json.dumps({"row": n, "text": text}, ensure_ascii=False) + "\n" for n in range(2)))
    for answers in (
        AnswerFile(tmp_path / "x.jsonl", MADE_OF).values,
        read_answers(tmp_path / "x.jsonl", dict(enumerate(rows))),
        read_answers(elsewhere, dict(enumerate(rows))),
    ):
        assert answers == written.values and answers[1, 0].text == text


def test_answers_of_something_else_are_refused(rows, tmp_path):
    path = tmp_path / "x.jsonl"
    AnswerFile(path, MADE_OF).append(rows[0].answer(0, "x").to_json())
    with pytest.raises(
        ValueError, match="made with another model .*'abc', now 'other'.*Choose another --out, or delete the file"
    ):
        AnswerFile(path, {**MADE_OF, "model": "other"})
    path.with_suffix(".made_of.json").unlink()
    with pytest.raises(ValueError, match="it is unknown what made these answers"):
        AnswerFile(path, MADE_OF)
    path.with_suffix(".made_of.json").write_text("[]")
    with pytest.raises(ValueError, match="x.made_of.json is not a JSON object"):
        AnswerFile(path, MADE_OF)


def test_a_damaged_line_is_named(rows, tmp_path):
    path = tmp_path / "x.jsonl"
    answers = AnswerFile(path, MADE_OF)
    answers.append(rows[0].answer(0, "x").to_json())
    path.write_bytes(path.read_bytes() + b'{"row": 1}\n')
    with pytest.raises(ValueError, match="x.jsonl, line 2: this is not a valid answer"):
        AnswerFile(path, MADE_OF)


def test_what_is_missing_or_has_failed_is_tried_again(rows, tmp_path):
    answers = AnswerFile(tmp_path / "x.jsonl", MADE_OF)
    answers.append(rows[0].answer(1, "x").to_json())
    answers.append(rows[2].answer(0, "", finish="failed", error="no such clip").to_json())
    assert answers.missing(3, 2) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    answers.append(rows[2].answer(0, "found").to_json())
    again = AnswerFile(tmp_path / "x.jsonl", MADE_OF)
    assert again.missing(3, 2) == [(0, 0), (1, 0), (1, 1), (2, 1)] and again.values[2, 0].text == "found"


@pytest.mark.parametrize(
    ("argument", "matters"),
    [
        ("load_format=dummy", True),
        ("hf_overrides={a: 1}", True),
        ("mm-processor-kwargs={sampling_rate: 8000}", True),
        ("dtype=float16", True),
        ("max_num_batched_tokens=100", True),
        ("gpu_memory_utilization=0.5", False),
        ("tensor-parallel-size=2", False),
    ],
)
def test_arguments_of_vllm_are_in_the_fingerprint(argument, matters, data, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    plain, given = (
        made_of(System("x", model=tmp_path), Data(data), Sampling(), vllm_arguments(texts))
        for texts in ([], [argument])
    )
    assert (plain != given) == matters and json.loads(json.dumps(given)) == given


def test_a_seed_follows_from_seed_pass_and_row():
    seeds = {Sampling(seed=seed).seed_of(row, k) for seed in range(3) for row in range(100) for k in range(5)}
    assert len(seeds) == 1500 and max(seeds) < 2**48
    assert Sampling().seed_of(3, 1) == Sampling(passes=9, max_tokens=7).seed_of(3, 1)
    assert Sampling(temperature=0.0).seed_of(3, 1) is None


def test_rows_know_question_references_and_clips(data, rows):
    assert rows[0].audio == rows[1].audio == ("clip1.wav",)
    assert (rows[3].question, rows[3].references) == ("Translate into German.", ("alte Leute lachen laut",))
    assert Data(data).splits == {"validation"}


def test_a_prompt_that_the_model_reads_otherwise_is_named_before_its_engine_starts(data, task, tmp_path):
    Data(data).check_prompts(task / "model")
    rows = [row for _, row in RowFile(data).rows()]
    rows[2]["prompt"][0]["content"] += "<|im_end|>"
    write_rows(rows, tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match="odd.parquet, row 2: message 0 of the prompt contains '<.im_end.>'"):
        Data(tmp_path / "odd.parquet").check_prompts(task / "model")


def test_a_question_that_is_spoken_alone_is_known_from_its_transcript(tmp_path):
    row = {
        "data_source": "voicebench/alpacaeval/test",
        "prompt": [{"role": "user", "content": "<audio>"}],
        "audios": ["0.wav"],
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {"question": "Who wrote Faust?"},
    }
    write_rows([row], tmp_path / "spoken.parquet")
    assert Data(tmp_path / "spoken.parquet").rows[0].question == "Who wrote Faust?"
