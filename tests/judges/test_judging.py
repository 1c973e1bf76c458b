"""Judges against a real HTTP server with a script: every fault that an endpoint can show, and what becomes of it."""

import base64
import gzip
import io
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from email.utils import formatdate

import pytest

from tests.helpers.judge_server import JudgeServer, Say, completion, token
from verl_leaf.common.answers import Answer
from verl_leaf.common.console import Console
from verl_leaf.judges import JudgeSpec, JudgeStopped, client, judge


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)


def answers(*texts: str) -> list[Answer]:
    return [Answer(row, 0, "s", f"Question {row}?", (f"right {row}",), (), text) for row, text in enumerate(texts)]


def spec(server: JudgeServer, **values) -> JudgeSpec:
    return JudgeSpec(**{"name": "j", "url": server.url, "model": "m", "kind": "da", "rubric": "qa", **values})


def run(script, texts, tmp_path, against=None, **values):
    """Verdicts, the server, and what was said on the console."""
    said = io.StringIO()
    with JudgeServer(script) as server:
        console = Console(file=said, width=1000)
        others = answers(*against) if against else None
        verdicts = judge(answers(*texts), spec(server, **values), tmp_path, others, console)
    return verdicts, server, said.getvalue()


def values(verdicts) -> list:
    return [item.value for item in verdicts.items]


def score(number, reasoning="So.") -> Say:
    return Say(json.dumps({"reasoning": reasoning, "errors": [], "score": number}))


def asked(body: dict) -> str:
    return body["messages"][0]["content"]


def row_of(body: dict) -> int:
    return int(re.search(r"Question (\d+)\?", asked(body))[1])


def test_the_median_of_the_samples_that_parse(tmp_path):
    replies = iter([score(10), score(90), Say("I would rather not."), score(70), score(80)])
    verdicts, server, said = run(
        lambda body, n: next(replies), ["x"], tmp_path, samples=5, temperature=0.7, concurrency=1
    )
    assert values(verdicts) == [75] and verdicts.items[0].unread == 1
    assert verdicts.score == 75 and verdicts.missing == 0 and verdicts.bounds == (75, 75)
    assert verdicts.usage.calls == 5 and verdicts.usage.input_tokens == 500 and verdicts.usage.output_tokens == 50
    assert all(request["path"] == "/v1/chat/completions" for request in server.requests)
    assert {request["temperature"] for request in server.requests} == {0.7}
    assert "logprobs" not in server.requests[0]
    assert re.search(r"^judge j: 5 calls \(0 more are cached\); about \d+ input tokens, at most 5120", said)


def test_what_cannot_be_parsed_is_missing_and_bounded_from_both_sides(tmp_path):
    def script(body, n):
        return [score(60), Say('{"score": 60'), Say("60"), score(101)][row_of(body)]

    verdicts, _, _ = run(script, "abcd", tmp_path)
    assert values(verdicts) == [60, None, None, None]
    assert (verdicts.score, verdicts.missing, verdicts.bounds) == (60, 3, (15, 90))
    summary = verdicts.summary()
    assert (summary["missing"], summary["lowest"], summary["highest"]) == (3, 15, 90)
    verdicts.write(tmp_path / "verdicts.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().strip().split("\n")]
    assert [line["value"] for line in lines] == [60, None, None, None] and lines[2]["replies"] == ["60"]


def test_likert_is_the_expected_grade_under_log_probabilities(tmp_path):
    tokens = [
        token("Feedback: 5 of 5 words."),
        token(" [RESULT]"),
        token(" 4", _4=math.log(0.6), _5=math.log(0.2), x=-9),
    ]

    def script(body, n):
        assert body["logprobs"] and body["top_logprobs"] == 20
        return Say("Feedback: 5 of 5 words. [RESULT] 4", tokens if row_of(body) == 0 else None)

    verdicts, _, _ = run(script, "ab", tmp_path, kind="likert")
    assert values(verdicts) == [pytest.approx(4.25), 4]
    assert [item.by for item in verdicts.items] == ["logprobs", "text"]
    assert verdicts.summary()["graded_by"] == {"logprobs": 1, "text": 1}
    again, server, _ = run(script, "ab", tmp_path, kind="likert")  # from the cache
    assert values(again) == values(verdicts) and not server.requests


def test_log_probabilities_can_be_left_out(tmp_path):
    _, server, _ = run(lambda body, n: Say("[RESULT] 2"), "a", tmp_path, kind="likert", logprobs=False)
    assert "logprobs" not in server.requests[0]


def test_a_judge_that_always_prefers_the_first_finds_nothing(tmp_path):
    verdicts, _, _ = run(
        lambda body, n: Say("Feedback: so. [RESULT] A"), "abc", tmp_path, against="def", kind="pairwise"
    )
    assert [item.outcome for item in verdicts.items] == ["inconsistent"] * 3
    assert verdicts.score == 0 and verdicts.first == 1 and verdicts.summary()["inconsistent"] == 3


def test_pairs_in_both_orders(tmp_path):
    """The judge prefers what holds "good"; one pair is as good as the other, and of one an order is unreadable."""

    def script(body, n):
        one, other = re.findall(r"<<ANSWER [AB] \w+\n(.*)\n", asked(body))
        if "odd" in one:
            return Say("Well.")
        return Say("tie" if ("good" in one) == ("good" in other) else "A" if "good" in one else "B")

    verdicts, server, _ = run(
        script,
        ["good", "bad", "good", "odd", "good"],
        tmp_path,
        against=["bad", "good", "good!", "good", "bad!"],
        kind="pairwise",
        format="bare",
    )
    assert [item.outcome for item in verdicts.items] == ["win", "loss", "tie", None, "win"]
    assert values(verdicts) == [1, -1, 0, None, 1] and len(server.requests) == 10
    assert (verdicts.score, verdicts.bounds, verdicts.first) == (0.25, (0, 0.4), 0.5)


def test_judgelm_gives_two_scores(tmp_path):
    def script(body, n):
        first = "ANSWER A" in asked(body) and re.search(r"<<ANSWER A \w+\ngood", asked(body))
        return Say("8 7.5\nThe first is better." if first else "3 9\nThe second.")

    verdicts, _, _ = run(script, ["good"], tmp_path, against=["bad"], kind="pairwise", format="judgelm")
    assert [item.outcome for item in verdicts.items] == ["win"]


def test_systems_must_have_answered_the_same(tmp_path):
    with JudgeServer(lambda body, n: Say("A")) as server:
        pairwise = spec(server, kind="pairwise")
        with pytest.raises(ValueError, match="row 1, sample 0"):
            judge(answers("a", "b"), pairwise, tmp_path, answers("a"))
        with pytest.raises(ValueError, match="compares two systems"):
            judge(answers("a"), pairwise, tmp_path)
        with pytest.raises(ValueError, match="no answer to the question of row 0"):
            judge(answers("a"), pairwise, tmp_path, [Answer(0, 0, "s", "Another?", ("right 0",), (), "b")])
    assert not server.requests


def test_an_answer_needs_something_to_be_judged_by(tmp_path):
    with JudgeServer(lambda body, n: score(50)) as server, pytest.raises(ValueError, match="row 7 has neither"):
        judge([Answer(7, 0, "s", " ", ("",), (), "x")], spec(server), tmp_path)


FAULTS = {
    "too many": Say(status=429, headers={"retry-after": "0.05"}),
    "too many until a date": Say(status=429, headers={"retry-after": formatdate(time.time() - 5, usegmt=True)}),
    "timeout of the server": Say(status=408),
    "broken server": Say(status=500, body=b"oh no"),
    "gateway": Say(status=502, body=b"<html>"),
    "stall": Say(stall=0.4),
    "a byte now and then": Say(trickle=True),
    "body cut off": Say("x" * 100, cut=True),
    "bad JSON": Say(body=b'{"choices": ['),
    "other JSON": Say(body=b'{"choices": []}'),
    "a text that is none": Say(body=b'{"choices": [{"message": {"content": 7}}]}'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_tried_again(fault, tmp_path):
    verdicts, server, said = run(
        lambda body, n: FAULTS[fault] if n < 2 else score(50),
        "a",
        tmp_path,
        timeout=0.2 if fault in ("stall", "a byte now and then") else 30,
    )
    assert values(verdicts) == [50] and len(server.requests) == 3
    assert said.count("trying again") == 1


def test_retry_after_holds_back_all_calls(tmp_path):
    def script(body, n):
        return Say(status=429, headers={"retry-after": "0.3"}) if n == 0 else score(50)

    _, server, _ = run(script, "abc", tmp_path, concurrency=1)
    assert server.times[1] - server.times[0] >= 0.3 and len(server.requests) == 4


def test_a_reply_may_hold_what_ends_a_line_elsewhere(tmp_path):
    reply = "a\u2028b\x85c\x0b\x1c 50"
    first, _, _ = run(lambda body, n: Say(reply), ["x\u2028\x85"], tmp_path, format="bare")
    again, server, _ = run(lambda body, n: Say("7"), ["x\u2028\x85"], tmp_path, format="bare")
    assert first.items == again.items and first.items[0].replies == (reply,) and not server.requests


def test_a_server_that_stays_broken_stops_the_judging_and_keeps_what_came(tmp_path):
    def script(body, n):
        return Say(status=503, body=b'{"error": {"message": "overloaded"}}') if row_of(body) == 1 else score(50)

    with pytest.raises(JudgeStopped, match=r"judge j at http.*, row 1: 8 tries failed.*503: overloaded.*are kept"):
        run(script, "abc", tmp_path, concurrency=1)
    verdicts, server, _ = run(lambda body, n: score(50), "abc", tmp_path)
    assert values(verdicts) == [50] * 3 and len(server.requests) == 2 and verdicts.usage.cached == 1


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_other_4xx_stop_at_once_with_the_servers_message(status, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret-7")
    refusal = Say(status=status, body=b'{"error": {"message": "no model m for secret-7"}}')
    with JudgeServer(lambda body, n: refusal) as server, pytest.raises(JudgeStopped) as stopped:
        judge(answers(*"abcdefgh"), spec(server, key_variable="JUDGE_KEY", concurrency=2), tmp_path)
    assert re.search(rf"row [01]: refused with status {status}: no model m for \*\*\*", str(stopped.value))
    assert len(server.requests) <= 2 and server.headers[0]["authorization"] == "Bearer secret-7"


def test_no_waiting_for_a_server_that_wants_hours(tmp_path):
    with pytest.raises(JudgeStopped, match="a pause of 3600 s"):
        run(lambda body, n: Say(status=429, headers={"retry-after": "3600"}), "a", tmp_path)


def test_no_more_calls_at_once_than_allowed(tmp_path):
    now, most = [], []

    def script(body, n):
        now.append(n)
        most.append(len(now))
        time.sleep(0.03)
        now.pop()
        return score(50)

    run(script, "abcdefghij", tmp_path, concurrency=3)
    assert max(most) <= 3 < len(most)


def test_the_rate_spaces_calls(tmp_path):
    _, server, _ = run(lambda body, n: score(50), "abc", tmp_path, rate=200)  # 0.6 s from the first to the third
    assert server.times[-1] - server.times[0] > 0.3


def test_the_budget_stops_before_it_is_exceeded_and_a_larger_one_goes_on(tmp_path):
    # A call reads 100 tokens and writes 10, and may write 1000: 0.0002 at most, and what it reads.
    money = {"prices": {"input": 1.0, "output": 10.0}, "max_tokens": 1000, "concurrency": 2}
    with pytest.raises(JudgeStopped, match=r"budget of 0\.011, .*Raise the budget"):
        run(lambda body, n: score(50), "abcdefghij", tmp_path, budget=0.011, **money)
    kept = len((tmp_path / "j.replies.jsonl").read_text().splitlines())
    assert 0 < kept < 10
    with pytest.raises(JudgeStopped, match=f"{0.0002 * kept:.4g} is spent"):
        run(lambda body, n: score(50), "abcdefghij", tmp_path, budget=0.0002 * kept, **money)
    verdicts, server, said = run(lambda body, n: score(50), "abcdefghij", tmp_path, budget=1.0, **money)
    assert len(server.requests) == 10 - kept and verdicts.usage.cached == kept
    assert verdicts.usage.cost == pytest.approx(10 * 200e-6) and "which cost at most" in said and "exceeds" not in said


def test_the_budget_is_that_of_all_systems_together(tmp_path):
    """Each system is judged by a call of its own; a call costs 0.0002, and may cost 0.0101."""
    money = {"prices": {"input": 1.0, "output": 10.0}, "max_tokens": 1000, "concurrency": 1}
    run(lambda body, n: score(50), "abcdefghij", tmp_path, budget=0.013, **money)
    with pytest.raises(JudgeStopped, match=r"budget of 0\.013, of which 0\.00[2-3]\d* is spent"):
        run(lambda body, n: score(50), "klmnopqrst", tmp_path, budget=0.013, **money)


def test_the_estimate_says_that_the_budget_will_not_do(tmp_path):
    said = io.StringIO()
    with JudgeServer(lambda body, n: score(50)) as server:
        poor = spec(server, prices={"input": 1.0, "output": 10.0}, budget=0.001)
        with pytest.raises(JudgeStopped):
            judge(answers("a"), poor, tmp_path, console=Console(file=said, width=1000))
    assert "It will stop before it exceeds the budget of 0.001, of which 0 is spent" in said.getvalue()
    assert not server.requests


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"temperature": 0.5},
        {"rubric": "translation"},
        {"max_tokens": 9},
        {"samples": 2, "temperature": 0.5},
    ],
)
def test_the_cache_tells_apart_everything_that_matters(change, tmp_path):
    run(lambda body, n: score(50), "a", tmp_path)
    _, server, _ = run(lambda body, n: score(50), "a", tmp_path, **change)
    assert len(server.requests) == change.get("samples", 1)
    for same in ({}, change):
        _, server, _ = run(lambda body, n: score(50), "a", tmp_path, **same)
        assert not server.requests


def test_answers_that_are_the_same_are_judged_once(tmp_path):
    same = answers("a") * 3
    with JudgeServer(lambda body, n: score(50)) as server:
        verdicts = judge(same, spec(server), tmp_path)
    assert len(server.requests) == 1 == verdicts.usage.calls and len(verdicts.items) == 3


def test_extra_fields_of_the_request(tmp_path):
    _, server, _ = run(
        lambda body, n: score(50), "a", tmp_path, extra_body={"max_tokens": None, "max_completion_tokens": 7}
    )
    assert "max_tokens" not in server.requests[0] and server.requests[0]["max_completion_tokens"] == 7


def test_a_torn_last_line_of_the_cache_is_asked_again(tmp_path):
    run(lambda body, n: score(50), "abc", tmp_path, concurrency=1)
    file = tmp_path / "j.replies.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    verdicts, server, _ = run(lambda body, n: score(50), "abc", tmp_path)
    assert len(server.requests) == 1 and values(verdicts) == [50] * 3
    _, server, _ = run(lambda body, n: score(50), "abc", tmp_path)
    assert not server.requests
    file.write_text("no reply\n" + file.read_text())
    with pytest.raises(ValueError, match=r"j\.replies\.jsonl, line 1: this is not a valid reply"):
        run(lambda body, n: score(50), "abc", tmp_path)


def test_a_folder_that_cannot_be_written_ends_the_judging(tmp_path, capfd):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        run(lambda body, n: score(50), "abcdef", tmp_path / "file/folder")
    assert "Task" not in capfd.readouterr().err


PROCESS = """
import sys
from pathlib import Path
from tests.judges.test_judging import answers
from verl_leaf.judges import JudgeSpec, judge
spec = JudgeSpec(name="j", url=sys.argv[1], model="m", kind="da", rubric="qa", concurrency=2)
judge(answers(*"abcdefghij"), spec, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed(how, tmp_path):
    with JudgeServer(lambda body, n: Say(stall=60) if n >= 4 else score(50)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, server.url, str(tmp_path)],
            stderr=subprocess.PIPE,
            # A shell lets what it starts in the background ignore Ctrl-C, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while len(server.requests) < 6:  # four are answered, two wait
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.02)
        os.kill(process.pid, how)
        process.wait(timeout=20)
        assert b"Task" not in process.stderr.read()
        process.stderr.close()
        server.script = lambda body, n: score(50)
        before = len(server.requests)
        verdicts = judge(answers(*"abcdefghij"), spec(server), tmp_path)
    assert len(server.requests) - before == 6 and verdicts.usage.cached == 4
    assert values(verdicts) == [50] * 10


def usage(**counts) -> Say:
    choice = {"message": {"content": '{"score": 50}'}}
    return Say(body=json.dumps({"choices": [choice], "usage": counts}).encode())


MONEY = {"prices": {"input": 1.0, "output": 10.0}, "max_tokens": 1000}


@pytest.mark.parametrize("count", [-1_000_000_000, math.inf, -math.inf, math.nan, 1e30, "7", True, [1], 10**400])
def test_counts_that_are_none_are_estimated(count, tmp_path):
    verdicts, _, said = run(lambda body, n: usage(prompt_tokens=count, completion_tokens=10), "ab", tmp_path, **MONEY)
    assert values(verdicts) == [50, 50] and verdicts.usage.output_tokens == 20
    assert 2 * 100 < verdicts.usage.input_tokens < 2 * 1000 and verdicts.usage.cost > 0
    assert said.count("the server reports") == 1


BOMBS = {
    "a body without end": lambda: Say(body=b" " * 40_000_000),
    "a small body that grows": lambda: Say(
        body=gzip.compress(b" " * 300_000_000), headers={"content-encoding": "gzip"}
    ),
    "no gzip": lambda: Say(body=b"{}", headers={"content-encoding": "gzip"}),
    "twice": lambda: Say(body=gzip.compress(gzip.compress(b" " * 10**8)), headers={"content-encoding": "gzip, gzip"}),
    "nesting": lambda: Say(body=b"[" * 200_000),
    "nesting, too many requests": lambda: Say(body=b"[" * 200_000, status=429),
    "a token of a size": lambda: Say("[RESULT] 4", [{"token": 4, "bytes": 6_000_000_000}]),
    "a huge number": lambda: Say(body=b'{"choices": [{"message": {"content": ' + b"1" * 100_000 + b"}}]}"),
    "no UTF-8": lambda: Say(body=b"\xff\xfe{}"),
    "no object": lambda: Say(body=b"7"),
    "a wait in other digits": lambda: Say(status=429, headers={"retry-after": "\u00b2"}),
    "a wait that is over": lambda: Say(status=429, headers={"retry-after": "0"}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_whatever_the_server_sends_ends_in_a_line(bomb, tmp_path):
    say = BOMBS[bomb]()
    before, began, worked = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), time.process_time()
    with pytest.raises(JudgeStopped, match="row 0: 8 tries failed") as stopped:
        run(lambda body, n: say, "a", tmp_path, kind="likert")
    assert "\n" not in str(stopped.value) and len(str(stopped.value)) < 700
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400_000 and time.process_time() - worked < 20  # KiB
    assert time.monotonic() - began > 7 * 0.005, "it waits, too, if the server asks for no wait"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("da", " " * 200_000 + "x"),
        ("da", "{" * 400_000),
        ("da", '{"score":' + " " * 150_000 + "x}"),
        ("da", '{"a":' * 30_000),
        ("likert", "[RESULT] " * 20_000 + "x"),
        ("likert", "[RESULT] 5" + " " * 199_000 + "x"),
        ("correct", "(" * 199_000),
    ],
)
def test_no_reply_takes_long_to_read(kind, text, tmp_path):
    began = time.process_time()
    verdicts, _, _ = run(lambda body, n: Say(text), "a", tmp_path, kind=kind)
    assert values(verdicts) == [None] and time.process_time() - began < 5


@pytest.mark.parametrize("logprob", [1e5, math.nan, math.inf])
def test_log_probabilities_that_are_none_leave_the_text(logprob, tmp_path):
    tokens = [token("[RESULT]"), token(" 4", _4=-0.1, _5=logprob)]
    for _ in range(2):  # the second time from the cache
        verdicts, _, _ = run(lambda body, n: Say("[RESULT] 4", tokens), "a", tmp_path, kind="likert")
        assert values(verdicts) == [4] and verdicts.items[0].by == "text"


@pytest.mark.parametrize(
    "poison",
    [
        '"reply": 5',
        '"reply": null',
        '"reply": {"text": 5, "tokens": [], "input_tokens": 1, "output_tokens": 1}',
        '"reply": {"text": "x", "tokens": [5], "input_tokens": 1, "output_tokens": 1}',
        '"reply": {"text": "x", "tokens": [], "input_tokens": "1", "output_tokens": 1}',
        '"reply": {"text": "x", "tokens": [["4", [["4", 1e5]]]], "input_tokens": 1, "output_tokens": 1}',
        '"reply": {"text": "x", "tokens": [["4", [["4", NaN]]]], "input_tokens": 1, "output_tokens": 1}',
        '"reply": {"texts": "x"}',
    ],
)
def test_a_poisoned_reply_is_dropped_and_asked_again(poison, tmp_path):
    run(lambda body, n: score(50), "ab", tmp_path)
    file = tmp_path / "j.replies.jsonl"
    first, second = map(json.loads, file.read_text().splitlines())
    file.write_text(f'{{"key": "{first["key"]}", {poison}}}\n{json.dumps(second)}\n')
    verdicts, server, said = run(lambda body, n: score(70), "ab", tmp_path)
    assert sorted(values(verdicts)) == [50, 70] and len(server.requests) == 1
    assert f"1 replies cannot be used and are dropped; the first is {first['key'][:12]}" in said
    _, server, _ = run(lambda body, n: score(0), "ab", tmp_path)
    assert not server.requests


SECRET = "sk-very-secret-0123456789"


@pytest.mark.parametrize(
    "say",
    [
        Say(status=401, body=b'{"error": {"message": "' + b"x" * 290 + SECRET.encode() + b'"}}'),
        Say(status=401, body=json.dumps({"error": f"no such key: {SECRET[:-4]}..."}).encode()),
        Say(status=401, body=SECRET.encode()),
        Say(json.dumps({"reasoning": f"The key is {SECRET}", "score": 50})),
        Say(f"{SECRET} [RESULT] 4", [token(SECRET[:9]), token(SECRET[9:]), token(" [RESULT]"), token(" 4", _4=-0.1)]),
        Say(body=b"no completion " + SECRET.encode()),
        Say(headers={"content-encoding": SECRET}),
        Say(
            body=json.dumps({"choices": [{"message": {"content": "50"}}], "usage": {"prompt_tokens": SECRET}}).encode()
        ),
    ],
)
def test_the_key_is_nowhere(say, tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    said, kind = io.StringIO(), "likert" if say.logprobs else "da"
    with JudgeServer(lambda body, n: say) as server:
        url = server.url.replace("//", "//me:pass-word-99@")
        own = spec(server, url=url, key_variable="JUDGE_KEY", kind=kind)
        try:
            judge(answers("a"), own, tmp_path, console=Console(file=said, width=1000)).write(tmp_path / "verdicts")
        except JudgeStopped as stopped:
            said.write(str(stopped))
        sent = server.headers[0]["authorization"]
        assert sent == "Basic " + base64.b64encode(b"me:pass-word-99").decode()
    told = said.getvalue() + "".join(map(str, capfd.readouterr())) + caplog.text
    told += "".join(file.read_text() for file in tmp_path.iterdir())
    assert "judge j" in told and "pass-word" not in told
    assert not [n for n in range(len(SECRET) - 7) if SECRET[n : n + 8] in told]


def test_the_budget_waits_for_calls_under_way(tmp_path):
    """Eight at once may cost more than the budget, but do not."""
    verdicts, _, _ = run(lambda body, n: score(50), "abcdefgh", tmp_path, budget=0.02, concurrency=8, **MONEY)
    assert values(verdicts) == [50] * 8 and verdicts.usage.cost == pytest.approx(8 * 200e-6)


def test_this_machine_needs_no_proxy(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert values(run(lambda body, n: score(50), "a", tmp_path)[0]) == [50]


def test_a_proxy_that_refuses_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with JudgeServer(lambda body, n: score(50)) as proxy:  # knows no CONNECT
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//me:pass-word-99@").removesuffix("/v1"))
        with pytest.raises(JudgeStopped) as stopped:
            judge(
                answers("a"), spec(proxy, url="https://judge.example/v1"), tmp_path, console=Console(file=io.StringIO())
            )
    message, port = str(stopped.value), proxy.url.split(":")[-1].removesuffix("/v1")
    assert (
        f"judge j at https://judge.example/v1 through the proxy http://127.0.0.1:{port}, row 0: the proxy refused the call"
        in message
    )
    assert "pass-word" not in message


def test_a_body_may_be_packed(tmp_path):
    packed = Say(body=gzip.compress(completion(score(50))), headers={"content-encoding": "gzip"})
    assert values(run(lambda _, n: packed, "a", tmp_path)[0]) == [50]


def test_content_may_be_a_list_of_parts(tmp_path):
    parts = [{"type": "text", "text": '{"score"'}, {"type": "thinking"}, {"type": "text", "text": ": 50}"}]
    body = json.dumps({"choices": [{"message": {"content": parts}}]}).encode()
    assert values(run(lambda _, n: Say(body=body), "a", tmp_path)[0]) == [50]
