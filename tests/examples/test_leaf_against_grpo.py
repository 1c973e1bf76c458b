"""The study of LEAF against GRPO: its plan, its report, and the lane that serves several cells with the same engines."""

import csv
import gzip
import json
import statistics
import subprocess
import sys
from collections import Counter

import pyarrow.parquet
import pytest
from rich.console import Console

from examples.leaf_against_grpo import report, study
from examples.leaf_against_grpo.cells import ROLLOUTS_PER_STEP, ROLLOUTS_PER_UPDATE, SCORES, STEPS, Cell, plan
from tests.helpers.traced import write_trace
from verl_leaf.runs.metrics import read_scalars


def test_all_cells_have_as_many_rollouts_and_updates():
    cells = plan()
    assert max(Counter(cell.name for cell in cells).values()) == 1
    for cell in cells:
        flags = dict(flag.split("=", 1) for flag in cell.overrides("data"))
        n = int(flags["actor_rollout_ref.rollout.n"])
        assert n * int(flags["data.train_batch_size"]) == ROLLOUTS_PER_STEP
        assert n * int(flags["actor_rollout_ref.actor.ppo_mini_batch_size"]) == ROLLOUTS_PER_UPDATE
        assert flags["data.seed"] == str(cell.seed) and flags["data.train_files"] == f"data/{cell.task}_train.parquet"


@pytest.fixture
def runs(tmp_path):
    """Three seeds of three methods on one task. The reward of step s is s / 100 with GRPO, a tenth more with LEAF."""
    for method, factor, answer in (("leaf", 1.1, "a b c d e"), ("grpo", 1.0, "a b c x e"), ("grpo_floored", 0.5, "y")):
        for seed in (1, 2, 3):
            folder = tmp_path / f"translation/{method}/{seed}"
            for name in ("metrics", "validation"):
                (folder / name).mkdir(parents=True)
            with open(folder / "metrics/000.jsonl", "w") as file:
                for step in range(1, STEPS + 1):
                    data = {"critic/score/mean": factor * step / 100, "training/rollout_probs_diff_max": 1e-6 * seed}
                    if method == "leaf":
                        data |= {"leaf/fired_share": 0.8, "leaf/usable_share": 0.4 + seed / 10}
                    file.write(json.dumps({"step": step, "data": data}) + "\n")
            rows = [
                {"output": answer, "gts": f"a b c d e {word}", "score": factor / 2, "data_source": "translation"}
                for word in "fghij"
            ]
            for step in (0, STEPS) if method == "grpo" else (STEPS,):
                (folder / f"validation/{step}.jsonl").write_text("\n".join(map(json.dumps, rows)))
            (folder / "summary.json").write_text("{}")
            if method == "leaf":
                write_trace(folder / "traces", 4, [answered_prompt()])
    row = {"audios": ["wav/0.wav"], "extra_info": {"sentence": "two tired horses sleep by the river"}}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "translation_train.parquet")
    return tmp_path


def answered_prompt():
    """Two answers: matte and dösen are right, Rösser in both, am Flüsschen and am Ufer are wrong."""

    def response(reward, pieces, advantages):
        spans = [
            {"start": token, "end": token + 1, "node": None, "credit": 0, "advantage": advantage}
            for token, advantage in enumerate(advantages)
        ]
        count = len(pieces)
        tokens = {"tokens": [7] * count, "pieces": pieces, "surprisal": [0.5] * count, "policy": [1] * count}
        return {"reward": reward, **tokens, "spans": spans}

    return {
        "prompt": "",
        "data_source": "translation",
        "reference": "",
        "audio": ["/elsewhere/wav/0.wav"],
        "root_value": 0.5,
        "boundaries": [],
        "nodes": [],
        "responses": [
            # What is averaged over a wording's tokens is 1 for "dösen" and -1 for "am Flüsschen".
            response(
                1.0,
                ["zwei", " matte", " Rösser", " dö", "sen", " am", " Fl", "üsschen", "<end>"],
                [9, 1, 1, 0, 2, -2, -1, 0, 9],
            ),
            response(
                0.0, ["zwei", " müde", " Rösser", " schlafen", " am", " Ufer", "<end>"], [9, -1, 1, -1, -3, -3, 9]
            ),
        ],
    }


def test_report(runs):
    report.write(runs, runs, runs / "report", Console(quiet=True))
    rows = {(row["method"], row["seed"]): row for row in csv.DictReader((runs / "report/cells.csv").open())}
    assert len(rows) == 9
    mean_step = (STEPS + 1) / 2
    assert float(rows["leaf", "1"]["area"]) == pytest.approx(1.1 * mean_step / 100)
    # The mean of 5 steps of s / 100 reaches x when the last of them is 100 x + 2.
    score = SCORES["translation"][0]
    assert int(rows["grpo", "1"][f"rollouts_to_{score}"]) == round(100 * score + 2) * ROLLOUTS_PER_STEP
    assert rows["grpo_floored", "1"][f"rollouts_to_{score}"] == ""
    assert float(rows["leaf", "2"]["usable"]) == pytest.approx(0.6)
    # Half of the wordings are right, so a decision is pushed by half the advantages: 1, 1, 1, and 2 for the place.
    assert float(rows["leaf", "1"]["signal_leaf"]) == pytest.approx(1.25 / 0.5)
    assert float(rows["leaf", "1"]["signal_grpo"]) == pytest.approx(3**0.5 / 2, rel=1e-5)  # of a, 0, a, 0
    assert float(rows["leaf", "1"]["sum_leaf"]) == pytest.approx(statistics.stdev([0, 2, 0, -4]))
    assert float(rows["leaf", "1"]["sum_grpo"]) == pytest.approx(0, abs=1e-6)
    text = (runs / "report/report.md").read_text()
    assert f"{0.1 * mean_step / 100:.3f} ± 0.000" in text  # LEAF's area above GRPO's
    assert "0 of 3 did" in text and "| translation | 80 % | 60 % |" in text
    leaf = next(line for line in text.splitlines() if line.startswith("| leaf |"))
    assert float(leaf.split("|")[-2]) < 0.01  # every one of its answers is better: no resample is not
    with gzip.open(runs / "report/answers.jsonl.gz", "rt") as file:
        assert sum(len(json.loads(line)["answers"]) for line in file) == 9 * 5
    assert all((runs / f"report/curves.{kind}").stat().st_size for kind in ("png", "svg", "csv"))


@pytest.mark.e2e
def test_a_lane_gives_every_cell_a_fresh_start_and_the_same_seeds(tmp_path):
    task, out = tmp_path / "task", tmp_path / "runs"
    prepare = [
        sys.executable,
        "-m",
        "examples.leaf_against_grpo.prepare",
        "--out",
        task,
        "--clips",
        "64",
        "--steps",
        "0",
    ]
    subprocess.run(prepare, check=True)
    cells = {
        "first": Cell("translation", "grpo", 1),
        "leaf": Cell("translation", "leaf", 1),
        "k16": Cell("translation", "leaf_k16", 1),
        "other_seed": Cell("translation", "grpo_floored", 2),
        "again": Cell("translation", "grpo", 1),
    }
    out.mkdir()
    # One update a step: verl leaves to chance which prompts share a mini-batch.
    plan = {
        name: [
            *cell.overrides(str(task / "data")),
            f"actor_rollout_ref.actor.ppo_mini_batch_size={3 if name == 'k16' else 6}",
        ]
        for name, cell in cells.items()
    }
    (out / "cells.json").write_text(json.dumps(plan))
    short = ["trainer.total_training_steps=2", "trainer.save_freq=1", "reward.custom_reward_function.name=chrf"]
    command = [
        sys.executable,
        "-m",
        "examples.leaf_against_grpo.lane",
        out,
        out / "cells.json",
        *study.settings(task),
        *short,
    ]
    process = study.start(out, 0, list(map(str, command)))
    assert process.wait(timeout=900) == 0, (out / "lane_0.log").read_text()[-5000:]

    scalars = {name: read_scalars(out / name / "metrics") for name in cells}
    first, again, leaf, other = (scalars[name] for name in ("first", "again", "leaf", "other_seed"))
    score, gradient, kl = "critic/score/mean", "actor/grad_norm", "actor/kl_loss"
    # Adapter, schedule and sampling begin anew, and so does Adam: its first update leads to the same second step, but for
    # a response that may go another way after a rounding.
    assert again[score][1] == pytest.approx(first[score][1], rel=1e-6)
    assert again[gradient][1] == pytest.approx(first[gradient][1], rel=1e-3)
    assert again["actor/lr"] == first["actor/lr"]
    assert again[kl][1] == pytest.approx(0, abs=1e-9) and first[kl][2] > 1e-4
    assert again[kl][2] == pytest.approx(first[kl][2], rel=0.1)
    assert again[score][2] == pytest.approx(first[score][2], rel=0.02)
    assert leaf[score][1] == pytest.approx(first[score][1], rel=1e-6)
    assert "leaf/fired_share" in leaf and "leaf/fired_share" not in first
    assert other[score][1] != pytest.approx(first[score][1], rel=1e-3)
    for own in scalars.values():
        assert max(own["training/rollout_probs_diff_max"].values()) < 1e-4
    assert all((out / name / "summary.json").exists() for name in cells)
