"""Whatever a folder holds, `tree`, `forks` and `curves` show what can be read, or end in one line that says what is wrong."""

import json
import os
import re

import pytest

from tests.helpers.traced import PIECES, WORKED, traced_prompt, write_trace
from tests.show.test_curves import write_run
from verl_leaf.cli import main
from verl_leaf.common.printable import printable
from verl_leaf.training.traces.schema import file_name

FIRST = "traces/step_000001.jsonl"
METRICS = "metrics/000.jsonl"


def missing(run):
    """Nothing at all."""


def a_file(run):
    run.write_text("hello")


def an_empty_folder(run):
    run.mkdir()


def a_file_of(content, name):
    def make(run):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)

    return make


def a_folder_for(name):
    return lambda run: (run / name).mkdir(parents=True)


def a_trace(end="\n", change=lambda prompt: None, **head):
    """Two prompts, the first of which is changed, after a head that is changed."""

    def make(run):
        prompts = [traced_prompt(**WORKED), traced_prompt(**WORKED)]
        change(prompts[0])
        file = write_trace(run / "traces", 1, prompts, end)
        lines = file.read_text().split("\n")
        file.write_text("\n".join([json.dumps(json.loads(lines[0]) | head), *lines[1:]]))

    return make


def without_rewards(prompt):
    prompt["responses"] = [{**response, "reward": None} for response in prompt["responses"]]


def with_a_boundary_past_the_end(prompt):
    prompt["boundaries"][0]["position"] = 10**400


def with_a_node_of_nobody(prompt):
    prompt["nodes"][1]["responses"] = [0, 4]


UTF16 = json.dumps({"format": "leaf-trace"}).encode("utf-16") + b"\n"
BAD_TRACES = {
    "missing": (missing, "run does not exist"),
    "a file": (a_file, "run is a file, not the folder of a run"),
    "empty folder": (an_empty_folder, "run contains no traces (step_*.jsonl)"),
    "empty traces": (a_folder_for("traces"), "run contains no traces (step_*.jsonl)"),
    "empty file": (a_file_of(b"", FIRST), "step_000001.jsonl: the file is empty"),
    "another format": (a_file_of(b"[1, 2]\n", FIRST), "step_000001.jsonl, line 1: Input should be an object"),
    "no JSON": (a_file_of(b"hello\n", FIRST), "step_000001.jsonl, line 1: Invalid JSON"),
    "UTF-16": (a_file_of(UTF16, FIRST), "step_000001.jsonl, line 1: Invalid JSON"),
    "unreadable": (a_folder_for(FIRST), "step_000001.jsonl: Is a directory"),
    "a later version": (a_trace(version=2), "step_000001.jsonl, line 1: version: '2': Input should be 1"),
}
PARTLY_BAD_TRACES = {
    "half a line": (a_trace(end="\n{cut"), "step_000001.jsonl: its last line is incomplete"),
    "null reward": (
        a_trace(change=without_rewards),
        "line 2: responses.0.reward: 'None': Input should be a valid number",
    ),
    "boundary": (a_trace(change=with_a_boundary_past_the_end), "line 2: "),
    "node": (a_trace(change=with_a_node_of_nobody), "line 2: there is no response 4, only 4"),
}


def run_command(command, tmp_path, capsys):
    """Status and what was printed of a command on ``run``; a traceback would fail the test."""
    status = main([command, str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    return status, capsys.readouterr()


def expect_one_line(command, status, printed, expected):
    assert status == 2
    (line,) = printed.err.splitlines()
    assert line.startswith(f"verl-leaf {command}: ") and expected in line


@pytest.mark.parametrize("command", ["tree", "forks"])
@pytest.mark.parametrize("case", BAD_TRACES)
def test_traces_that_cannot_be_read_are_one_line(case, command, tmp_path, capsys):
    make, expected = BAD_TRACES[case]
    make(tmp_path / "run")
    expect_one_line(command, *run_command(command, tmp_path, capsys), expected)


@pytest.mark.parametrize("command", ["tree", "forks"])
@pytest.mark.parametrize("case", PARTLY_BAD_TRACES)
def test_what_is_left_of_traces_is_shown_and_the_rest_is_said(case, command, tmp_path, capsys):
    make, expected = PARTLY_BAD_TRACES[case]
    make(tmp_path / "run")
    status, printed = run_command(command, tmp_path, capsys)
    assert status == 0 and printed.err == ""
    assert f"Could not be read: {file_name(1)}" in printed.out and expected in printed.out
    if command == "tree":
        trees = 2 if case == "half a line" else 1
        assert f"{trees} trees of 1 step," in printed.out


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_lines_end_at_newlines_only(end, tmp_path, capsys):
    pieces = [*PIECES, f"Guten{end}Tag"]
    responses = [[*tokens[:4], len(PIECES)] for tokens in WORKED["responses"]]
    prompt = traced_prompt(**{**WORKED, "responses": responses, "pieces": pieces}, reference=f"a{end}b")
    write_trace(tmp_path / "run/traces", 1, [prompt])
    status, printed = run_command("tree", tmp_path, capsys)
    assert status == 0 and "Could not be read" not in printed.out
    page = (tmp_path / "out").read_bytes().decode()
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert data["steps"][0]["prompts"][0]["reference"] == f"a{end}b"


@pytest.mark.parametrize("command", ["tree", "forks", "curves"])
def test_a_result_that_cannot_be_written_is_one_line(command, tmp_path, capsys):
    write_run(tmp_path / "run", 1)
    a_trace()(tmp_path / "run")
    (tmp_path / "file").touch()
    status = main([command, str(tmp_path / "run"), "--out", str(tmp_path / "file/out")])
    expect_one_line(command, status, capsys.readouterr(), str(tmp_path / "file"))


def logged(*lines):
    """A run with metrics of these lines."""
    return a_file_of(b"".join(line + b"\n" for line in lines), METRICS)


def step(number, **data):
    return json.dumps({"step": number, "data": data}).encode()


def summed_up_as(content):
    def make(run):
        write_run(run, 1)
        (run / "summary.json").write_bytes(content)

    return make


def configured_as(content):
    def make(run):
        write_run(run, 1)
        (run / "hydra/.hydra/config.yaml").write_bytes(content)

    return make


def linked(name):
    """A run one of whose files is a link to a file that is not the run's."""

    def make(run):
        summed_up_as(b"{}")(run)
        (run / name).rename(run.parent / "private")
        (run / name).symlink_to(run.parent / "private")

    return make


REWARD = "critic/score/mean"
NOTHING = "run contains no metrics/*.jsonl and no TensorBoard files"
BAD_LOGS = {
    "missing": (missing, NOTHING),
    "a file": (a_file, NOTHING),
    "empty folder": (an_empty_folder, NOTHING),
    "empty file": (logged(), NOTHING),
    "no JSON": (logged(b"hello"), NOTHING),
    "wrong types": (logged(b"[]", b"3", b'"x"', b'{"step": null, "data": {}}', b'{"step": 1, "data": []}'), NOTHING),
    "null values": (logged(step(1, **{REWARD: None})), NOTHING),
    "no reward": (logged(step(1, loss=0.5)), "run: no reward and no validation is logged yet"),
    "unreadable": (a_folder_for(METRICS), "Is a directory"),
    "garbage for TensorBoard": (a_file_of(b"\0garbage", "events.out.tfevents.1.host"), NOTHING),
    "summary of a list": (summed_up_as(b"[]"), "summary.json is not a JSON object"),
    "half a summary": (summed_up_as(b'{"val": '), "summary.json is not valid JSON"),
    "a summary without end": (summed_up_as(5000 * b"["), "summary.json is not valid JSON"),
    "a configuration without end": (configured_as(5000 * b"["), "config.yaml cannot be read"),
    "summary in UTF-16": (summed_up_as(UTF16[:-5]), "summary.json is not valid JSON"),
    "broken configuration": (configured_as(b"algorithm: ["), "config.yaml cannot be read: while parsing"),
    "configuration in cp1252": (configured_as("name: Müller".encode("cp1252")), "config.yaml cannot be read"),
    "configuration of a list": (configured_as(b"- 1\n"), "config.yaml is not a configuration of verl"),
    "a configuration of aliases": (
        configured_as(b"a: &a [1]\nb: [*a, *a]\n"),
        "config.yaml cannot be read: it contains YAML al",
    ),
    "a configuration elsewhere": (linked("hydra/.hydra/config.yaml"), "config.yaml is a link to /"),
    "a summary elsewhere": (linked("summary.json"), "summary.json is a link to /"),
    "metrics elsewhere": (linked(METRICS), "000.jsonl is a link to /"),
}
PARTLY_BAD_LOGS = {
    "infinite values": (
        logged(step(1, **{REWARD: 0.5}), b'{"step": 2, "data": {"critic/score/mean": NaN, "x": 1e999}}'),
        "training reward",
    ),
    "half a line": (
        logged(step(1, **{REWARD: 0.5}), b'{"step": 2, "da'),
        "000.jsonl: 1 of 2 lines are cut off, or not",
    ),
    "UTF-16": (
        a_file_of(2 * (step(1, **{REWARD: 0.5}).decode() + "\n").encode("utf-16"), METRICS),
        "lines are cut off, or not from verl's file logger",
    ),
    "step too large": (logged(step(1, **{REWARD: 0.5}), b'{"step": 1e999, "data": {}}', step(10**400)), "2 of 3 lines"),
    "null summary": (summed_up_as(b'{"val": null}'), "0.500"),
    "null scores": (summed_up_as(b'{"val": {"before": null, "after": {"bleu": null, "reward": null}}}'), "0.500"),
    "a score too large": (summed_up_as(b'{"val": {"after": {"bleu": 1' + 400 * b"0" + b"}}}"), "0.500"),
    "a batch too large": (configured_as(b"data: {train_batch_size: 1" + 400 * b"0" + b"}"), "0.500"),
    "empty configuration": (configured_as(b""), "0.500"),
    "null settings": (configured_as(b"algorithm: null\ndata: {train_batch_size: null}\n"), "unknown method"),
    "U+2028 in a name": (
        logged(json.dumps({"step": 1, "data": {"val-core/a\u2028b/reward/mean@1": 0.25}}, ensure_ascii=False).encode()),
        "0.250",
    ),
}


@pytest.mark.parametrize("case", BAD_LOGS)
def test_logs_that_cannot_be_read_are_one_line(case, tmp_path, capsys):
    make, expected = BAD_LOGS[case]
    make(tmp_path / "run")
    expect_one_line("curves", *run_command("curves", tmp_path, capsys), expected)


@pytest.mark.parametrize("case", PARTLY_BAD_LOGS)
def test_what_is_left_of_logs_is_drawn_and_the_rest_is_said(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    make, expected = PARTLY_BAD_LOGS[case]
    make(tmp_path / "run")
    status, printed = run_command("curves", tmp_path, capsys)
    assert status == 0, printed.err
    assert expected in printed.out + (tmp_path / "out.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["a$b", "$x$", r"$\frac{$", "_hidden", "[red]", ":smile:", "a\x1b[31mb\r\x9b", "Müller = (1), {2}", "日本"]
)
def test_names_of_any_characters(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = write_run(tmp_path / name, 1)
    a_trace()(run)
    for command in ("tree", "forks", "curves"):
        assert main([command, str(run)]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert printed.count(printable(name)) >= 5 and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed)
    if name.isascii():
        assert printable(name) in (run / "forks.svg").read_text().replace("&gt;", ">")
    assert os.path.getsize(run / "curves.png")
