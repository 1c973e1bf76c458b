"""Forks are counted as the paper counts them, and intervals are Wilson's."""

import csv

import matplotlib.pyplot as plt
import pytest

from tests.helpers.traced import WORKED, traced_prompt, write_trace
from verl_leaf.cli import main
from verl_leaf.common.console import Console
from verl_leaf.show.forks import collect, measures, verdict, write_forks
from verl_leaf.training.traces.schema import Prompt


def prompt(**changes):
    return Prompt.model_validate(traced_prompt(**{**WORKED, **changes}))


def only(rows, measure, over="all"):
    return [row for row in rows if (row["measure"], row["over"]) == (measure, over)]


def test_fired_and_usable():
    forks = collect([(1, prompt()), (2, prompt(rewards=[1.0, 0.5, 0.0, 1.0])), (2, prompt(rewards=[1.0] * 4))])
    # The node of 0 and 3 has one reward in the second prompt; the third has one reward in all.
    assert [usable for *_, usable in forks.boundaries] == [True, True, True, False, False, False]
    assert all(fired for *_, fired, _ in forks.boundaries)
    assert {(seen.position, seen.token) for seen in forks.boundaries} == {(2 / 5, 2), (4 / 5, 4)}
    assert forks.nodes[:2] == [(1, 4, 1.0), (1, 2, pytest.approx(0.2))]


def test_wilson_s_interval():
    # 8 of 10: Wilson (1927) by hand with z = 1.959964.
    forks = collect([(1, prompt())] * 4 + [(1, prompt(rewards=[0.5] * 4))])
    (usable,) = only(measures(forks), "usable")
    assert (usable["count"], usable["value"]) == (10, 0.8)
    assert (usable["low"], usable["high"]) == (pytest.approx(0.490162, abs=1e-5), pytest.approx(0.943318, abs=1e-5))


def test_early_is_what_the_first_fork_settles():
    # Response 2 parts first; the others continue together.
    first = [1.0**2 / 2, 0.5**2 / 2, 0.8**2 / 2]
    later = [0.5**2 / 2, 0.2**2 / 2, 0.3**2 / 2]
    forks = collect([(1, prompt()), (2, prompt()), (3, prompt(rewards=[0.5] * 4))])
    (early,) = only(measures(forks), "early")
    expected = 1 - sum(later) / sum(first)
    assert early["count"] == 2  # rewards that do not differ say nothing
    assert [early[key] for key in ("value", "low", "high")] == pytest.approx([expected] * 3)
    assert [row["from"] for row in only(measures(forks), "early", "step")] == [1, 2]


def test_the_interval_of_early_is_of_prompts():
    rewards = ([1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.5, 0.0], [1.0, 0.0, 1.0, 0.0])
    few, many = (only(measures(collect([(1, prompt(rewards=r)) for r in rewards] * n)), "early")[0] for n in (2, 40))
    assert few["value"] == pytest.approx(many["value"])
    assert few["low"] < many["low"] < many["value"] < many["high"] < few["high"]


@pytest.mark.parametrize(
    ("rewards", "says"),
    [
        (
            [[1.0, 1.0, 0.0, 1.0]] * 3,
            "1.00 (1.00 to 1.00) of the reward variance within prompts, which is more than half",
        ),
        ([[1.0, 0.0, 0.5, 1.0]] * 3, "less than half"),
        ([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.5, 1.0]], "too few prompts to know"),
        ([[0.5] * 4], "it is unknown whether tree credit helps"),
    ],
)
def test_the_closing_sentence(rewards, says):
    forks = collect([(1, prompt(rewards=own)) for own in rewards])
    sentence = verdict("mine", [{"run": "mine", **row} for row in measures(forks)])
    assert sentence.startswith("mine: ") and says in sentence


def test_shares_of_places_and_stretches_are_those_of_the_whole():
    rows = measures(collect([(step, prompt(rewards=[1.0, 0.5, 0.0, step % 2])) for step in range(1, 31)]))
    for measure in ("fired", "usable"):
        (total,) = only(rows, measure)
        for over in ("position", "token", "step"):
            parts = only(rows, measure, over)
            assert sum(row["count"] for row in parts) == total["count"]
            whole = sum(row["count"] * row["value"] for row in parts) / total["count"]
            assert whole == pytest.approx(total["value"])
    assert len(only(rows, "node_size", "step")) == 10


def test_runs_side_by_side(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for run in ("a", "b"):
        for step in (10, 20):
            write_trace(tmp_path / run / "traces", step, [traced_prompt(**WORKED)] * 3, end="\n{cut")
    assert main(["forks", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out/forks")]) == 0
    rows = list(csv.DictReader((tmp_path / "out/forks.csv").open()))
    assert {row["run"] for row in rows} == {"a", "b"}
    width, height = plt.imread(tmp_path / "out/forks.png").shape[1::-1]
    assert 0.8 < height / width < 1.2, "two columns of three panels"
    svg = (tmp_path / "out/forks.svg").read_text()
    assert "early: share of the reward" in svg and "reward spread in a node" in svg
    assert "a: 12 boundaries" in svg and "b: 12 boundaries" in svg
    bins = [(float(row["from"]), float(row["to"])) for row in rows if row["over"] == "token"]
    assert {end - start for start, end in bins} == {1} and all(start.is_integer() for start, _ in bins)
    printed = capsys.readouterr().out
    assert printed.count("its last line is incomplete") == 4 and "100 % (76-100)" in printed


def test_a_run_in_which_nothing_fires(tmp_path):
    alone = traced_prompt([[1, 2], [3, 4]], [[0.1, 1.0]] * 2, [1.0, 0.0], WORKED["pieces"])
    write_trace(tmp_path / "traces", 1, [alone])
    assert main(["forks", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "forks.csv").open()))
    assert {(row["measure"], row["value"]) for row in rows} == {("fired", "0.0"), ("usable", "0.0")}


def test_a_run_without_traces(tmp_path, capsys):
    assert main(["forks", str(tmp_path)]) == 2
    assert "no traces (step_*.jsonl)" in capsys.readouterr().err
    write_trace(tmp_path / "traces", 1, [traced_prompt(**WORKED, fork_budget=0)])
    with pytest.raises(ValueError, match="contain no boundary"):
        write_forks([tmp_path], tmp_path / "forks", Console(quiet=True))
