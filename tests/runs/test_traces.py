"""The reader gives back what the writer wrote, and refuses whatever the format does not allow."""

import json

import pytest
from pydantic import ValidationError

from tests.helpers.traced import PIECES, WORKED, traced_prompt, write_trace
from verl_leaf.runs.traces import read_trace, trace_files
from verl_leaf.training.traces.schema import Prompt, file_name


def change(prompt, path, value):
    """The prompt with another value at a path; without the key where the value is ``...``."""
    *way, last = path
    for key in way:
        prompt = prompt[key]
    if value is ...:
        del prompt[last]
    else:
        prompt[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("responses",), []),
        (("responses", 0, "tokens"), [5, 6, 7]),
        (("responses", 0, "tokens"), []),
        (("responses", 0, "policy"), [1, 1, 1, 1, 2]),
        (("responses", 0, "reward"), None),
        (("responses", 0, "reward"), 1e300),
        (("responses", 0, "surprisal", 0), "much"),
        (("responses", 0, "spans", 0, "end"), 6),
        (("responses", 0, "spans", 1, "start"), 5),
        (("responses", 0, "spans", 0, "node"), 2),
        (("responses", 0, "spans", 0, "start"), -1),
        (("boundaries", 0, "position"), 0),
        (("boundaries", 0, "position"), 5),
        (("boundaries", 0, "response"), 4),
        (("nodes", 0, "boundary"), 2),
        (("nodes", 0, "responses"), []),
        (("nodes", 0, "responses"), [0, 4]),
        (("nodes", 0, "responses"), [-1, 0]),
        (("audio",), [3]),
        (("prompt",), ...),
    ],
)
def test_a_prompt_whose_parts_do_not_agree_is_refused(path, value):
    prompt = traced_prompt(**WORKED)
    Prompt.model_validate_json(json.dumps(prompt))
    change(prompt, path, value)
    with pytest.raises(ValidationError):
        Prompt.model_validate_json(json.dumps(prompt))


def test_lines_end_at_newlines_only(tmp_path):
    text = "Guten\u2028Tag\x85\x0b\x1c\r!"
    responses = [[*tokens[:4], len(PIECES)] for tokens in WORKED["responses"]]
    prompt = traced_prompt(**{**WORKED, "responses": responses, "pieces": [*PIECES, text]}, reference=text)
    skipped = []
    trace = read_trace(7, write_trace(tmp_path, 7, [prompt, prompt]), skipped)
    assert skipped == [] and trace.step == 7 and list(trace.prompts) == [1, 2]
    assert trace.prompts[2].model_dump() == prompt and prompt["responses"][0]["pieces"][-1] == text


def test_the_lines_that_can_be_read_are_read(tmp_path):
    prompt = traced_prompt(**WORKED)
    file = write_trace(tmp_path, 7, [prompt, {"prompt": 1}, prompt], end='\n{"prompt": "cut')
    skipped = []
    assert list(read_trace(7, file, skipped).prompts) == [1, 3]
    assert skipped[0].startswith("step_000007.jsonl, line 3: prompt: ")
    assert skipped[1] == "step_000007.jsonl: its last line is incomplete"


def test_a_file_of_another_version_is_left_alone(tmp_path):
    file = write_trace(tmp_path, 7, [traced_prompt(**WORKED)])
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    skipped = []
    assert read_trace(7, file, skipped).prompts == {}
    assert skipped == ["step_000007.jsonl, line 1: version: '2': Input should be 1"]


def test_files_are_known_by_their_names(tmp_path):
    for name in (
        "step_000010.jsonl",
        file_name(2),
        file_name(1_234_567),
        "step_3.jsonl",
        "step_x.jsonl",
        "._step_000001.jsonl",
    ):
        (tmp_path / name).touch()
    assert list(trace_files(tmp_path)) == [2, 10, 1_234_567]
