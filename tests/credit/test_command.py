"""The command stops on bad input before it starts an engine, and resumes from what is on disk."""

import dataclasses
import json

import pytest

from verl_leaf.cli import main
from verl_leaf.common.answers import Row
from verl_leaf.credit.signal import NAMES, Signal


def run(task, out, *more):
    data = str(task / "data/val.parquet")
    return main(["credit", "--model", str(task / "model"), "--data", data, "--out", str(out), *more])


@pytest.mark.parametrize(
    "more, message",
    [
        (["--group", "1"], "--group 1: set it to 2 or more"),
        (["--rollouts", "15"], "--rollouts 15: set it to an even number of at least 16"),
        (["--rollouts", "8", "--group", "8"], "--rollouts 8: set it to an even number of at least 16"),
        (["--prompts", "1"], "--prompts 1: set it to 2 or more"),
        (["--top-p", "0"], "--top-p 0.0: this value is out of range"),
    ],
)
def test_bad_options_are_named(task, tmp_path, capsys, more, message):
    assert run(task, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("reward, text, value", [("choice", "B", 1.0), ("choice", "A", 0.0), ("exact_match", "B", 0.0)])
def test_rewards_of_choices_get_the_choices(reward, text, value):
    from verl_leaf.evaluate.forks import reward_of

    row = Row(0, "quiz", "Which?", ("dog",), (), choices=("cat", "dog"))
    assert reward_of(reward, row, text) == value


def test_what_is_on_disk_is_not_made_again(task, tmp_path, capsys, monkeypatch):
    """Rollouts and signals of all prompts are there: no engine and no model is started, and the table is the one of the file."""
    from verl_leaf.credit import command

    def never(*_, **__):
        raise AssertionError("nothing is missing")

    small = ["--prompts", "3", "--rollouts", "4", "--group", "2"]
    out = tmp_path / "out"
    monkeypatch.setattr(command, "sampling_engine", never)
    with pytest.raises(AssertionError):
        run(task, out, *small)
    rows = json.loads((out / "rollouts.made_of.json").read_text())
    assert rows["sampling"]["top_p"] == 0.9 and rows["sampling"]["temperature"] == 1.0  # as in training
    monkeypatch.setattr(command, "TokenGradients", never)
    chosen = command.chosen_rows(list(range(len(command.Data(task / "data/val.parquet").rows))), 3, 0)
    with (out / "rollouts.jsonl").open("w") as file:
        for row in chosen:
            for k in range(4):
                line = {"row": row, "sample": k, "tokens": [5, 6 + k % 2], "log_probs": [-0.1, -0.7], "reward": k / 4}
                file.write(json.dumps(line) + "\n")
    with pytest.raises(AssertionError):
        run(task, out, *small)
    with (out / "signals.jsonl").open("w") as file:
        for row in chosen:
            values = {name: dataclasses.astuple(Signal(1.0 + (name == "tempo"), 4.0, 0.5)) for name in NAMES}
            file.write(json.dumps({"row": row, "size": 1.0, "signals": values}) + "\n")
    assert run(task, out, *small) == 0
    assert "Use tempo: a step with it gains 4.00" in capsys.readouterr().out
    written = json.loads((out / "credit.json").read_text())
    assert [row["estimator"] for row in written["estimators"]] == list(NAMES) and (out / "credit.png").exists()
    assert run(task, out, "--prompts", "3", "--rollouts", "4", "--group", "2", "--reward", "chrf") == 2
    assert "were made with another reward" in capsys.readouterr().err
