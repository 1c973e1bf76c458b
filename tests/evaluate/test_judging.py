"""Judges beside the metrics: their grades get means, intervals and tests, and what they leave out is said."""

import json

from tests.evaluate.conftest import REFERENCES
from tests.helpers.judge_server import JudgeServer, Say
from verl_leaf.cli import main
from verl_leaf.common.files import json_lines


def evaluate(data, out, *arguments) -> int:
    return main(["evaluate", *map(str, arguments), "--data", str(data), "--out", str(out), "--metrics", "bleu"])


def write_judge(folder, server, **keys):
    file = folder / f"{keys.pop('name', 'grader')}.yaml"
    told = {"url": server.url, "model": "m", "kind": "da", "rubric": "translation", "format": "bare", **keys}
    file.write_text("".join(f"{key}: {value}\n" for key, value in told.items()))
    return file


def by_length(body, _number) -> Say:
    """90 for answers that hold a whole reference, 10 for others; nothing readable of one row."""
    message = body["messages"][-1]["content"]
    if REFERENCES[3] in message and message.count(REFERENCES[3]) == 1:
        return Say("no idea")
    return Say("90" if any(message.count(reference) > 1 for reference in REFERENCES) else "10")


def test_grades_are_scored_like_a_metric(data, answers, tmp_path, capsys):
    good, bad = answers("good", REFERENCES), answers("bad", ["ein", "ein", "ein", "ein"])
    with JudgeServer(by_length) as server:
        judge = write_judge(tmp_path, server)
        assert evaluate(data, tmp_path / "out", bad, good, "--judge", judge) == 0
        asked = len(server.requests)
        assert evaluate(data, tmp_path / "out", bad, good, "--judge", judge) == 0
        assert len(server.requests) == asked == 8, "what was replied is not asked again"
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    graded = {
        line["system"]: line for line in summary["scores"] if (line["metric"], line["data_source"]) == ("grader", "all")
    }
    assert (graded["good"]["mean"], graded["bad"]["mean"]) == (90, 10)
    (difference,) = [
        line for line in summary["differences"] if (line["metric"], line["data_source"]) == ("grader", "all")
    ]
    assert difference["value"] == 80 and difference["p"] is None
    missing = {line["system"]: (line["missing"], line["lowest"], line["highest"]) for line in summary["judges"]}
    assert missing == {"good": (0, 90, 90), "bad": (1, 7.5, 32.5)}
    assert (
        "1 of 4 grades are missing; if they were the worst or the best, the mean would be 7.5 or 32.5"
        in capsys.readouterr().out
    )
    assert len(list(json_lines(tmp_path / "out/judges/grader/verdicts/bad.jsonl"))) == 4


def test_a_pairwise_judge_needs_two_systems(data, answers, tmp_path, capsys):
    good, bad = answers("good", REFERENCES), answers("bad", ["ein", "ein", "ein", "ein"])
    with JudgeServer(lambda body, _: Say("Feedback: better. [RESULT] A")) as server:
        judge = write_judge(tmp_path, server, name="pairs", kind="pairwise", format="prometheus")
        assert evaluate(data, tmp_path / "alone", bad, "--judge", judge) == 2
        assert "compares two systems, but only one is given" in capsys.readouterr().err and not server.requests
        assert evaluate(data, tmp_path / "out", bad, good, "--judge", judge) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    (pairs,) = summary["judges"]
    assert (pairs["system"], pairs["inconsistent"], pairs["first_preferred"]) == ("good", 4, 1)
    (advantage,) = [
        line for line in summary["scores"] if line["metric"].startswith("pairs") and line["data_source"] == "all"
    ]
    assert (advantage["metric"], advantage["mean"]) == ("pairs, net advantage", 0)
    assert not [line for line in summary["differences"] if line["metric"].startswith("pairs")]
    assert "pairs of good: pairwise by m; 0 win, 0 loss, 0 tie, 4 inconsistent" in capsys.readouterr().out


def test_a_judge_that_refuses_costs_no_other_score(data, answers, tmp_path, capsys):
    with JudgeServer(lambda *_: Say(status=401, body=b'{"error": {"message": "who are you"}}')) as server:
        judge = write_judge(tmp_path, server)
        assert evaluate(data, tmp_path / "out", answers("good", REFERENCES), "--judge", judge) == 2
    printed = capsys.readouterr()
    assert "BLEU" in printed.out and "401" in printed.err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["judges"] == [] and {line["metric"] for line in summary["scores"]} == {"BLEU"}


def test_a_file_that_is_no_judge(data, answers, tmp_path, capsys):
    (tmp_path / "none.yaml").write_text("model: m\n")
    good = answers("good", REFERENCES)
    for files in (["none.yaml"], ["missing.yaml"]):
        assert evaluate(data, tmp_path / "out", good, "--judge", *(tmp_path / name for name in files)) == 2
        assert files[0] in capsys.readouterr().err


def test_a_system_without_a_grade_has_no_score_and_no_difference(data, answers, tmp_path, capsys):
    """On a scale of 1 to 5 a missing grade is not 0."""
    good, bad = answers("good", REFERENCES), answers("bad", ["ein", "ein", "ein", "ein"])

    def some(body, _):
        return Say("[RESULT] 4" if any(map(body["messages"][0]["content"].count, REFERENCES[:2])) else "No.")

    def script(body, number):
        return Say("I cannot say.") if "\nein\n" in body["messages"][0]["content"] else some(body, number)

    with JudgeServer(script) as server:
        judge = write_judge(tmp_path, server, kind="likert", format="prometheus")
        assert evaluate(data, tmp_path / "out", bad, good, "--judge", judge) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text(), parse_constant=lambda name: 1 / 0)
    means = {
        (line["system"], line["data_source"]): line["mean"] for line in summary["scores"] if line["metric"] == "grader"
    }
    assert means == {
        **{("good", source): mean for source, mean in (("animals", 4), ("people", None), ("all", 4))},
        **{("bad", source): None for source in ("animals", "people", "all")},
    }
    assert not [line for line in summary["differences"] if line["metric"] == "grader"]
