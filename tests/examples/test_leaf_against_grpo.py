"""The study of LEAF against GRPO: its plan, its report, and the lane that serves several cells with the same engines."""

import csv
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from verl.trainer.ppo import core_algos

from examples.leaf_against_grpo import lane, report, study
from examples.leaf_against_grpo.cells import (
    COST,
    EARLY_TASK,
    METHODS,
    RATES,
    ROLLOUTS_PER_STEP,
    ROLLOUTS_PER_UPDATE,
    SCORES,
    SECOND,
    SEEDS,
    STARTS,
    STEPS,
    SWEEP,
    SWEEP_SEEDS,
    TASKS,
    Cell,
    best_rate,
    possible,
    reported,
)
from tests.helpers import PROJECT
from tests.helpers.traced import traced_prompt, write_trace
from verl_leaf.common.console import Console
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import read_scalars


def test_all_cells_have_as_many_rollouts_and_updates():
    cells = possible()
    assert max(Counter(cell.name for cell in cells).values()) == 1
    for cell in cells:
        flags = dict(flag.split("=", 1) for flag in cell.overrides("data"))
        n = int(flags["actor_rollout_ref.rollout.n"])
        assert n * int(flags["data.train_batch_size"]) == ROLLOUTS_PER_STEP
        assert n * int(flags["actor_rollout_ref.actor.ppo_mini_batch_size"]) == ROLLOUTS_PER_UPDATE
        assert flags["data.seed"] == str(cell.seed) and flags["data.train_files"] == f"data/{cell.task}_train.parquet"


def test_each_method_is_reported_at_its_own_best_rate_and_on_other_seeds():
    best = {
        (task, method): RATES[(place + turn) % 3]
        for place, task in enumerate(TASKS)
        for turn, method in enumerate(METHODS)
    }

    def area(cell: Cell) -> float:
        assert cell in SWEEP
        return (cell.rate == best[cell.task, cell.method]) + cell.seed / 1000

    cells = reported(area)
    assert set(cells) <= set(possible()) and not set(cells) & set(SWEEP)
    assert {cell.seed for cell in cells} == set(SEEDS) and not set(SEEDS) & set(SWEEP_SEEDS)
    assert all(cell.rate == best[cell.task, cell.method] for cell in cells)
    assert Counter((cell.task, cell.n) for cell in cells) == {
        **{(task, 8): len(SEEDS) * len(METHODS) for task in TASKS},
        (EARLY_TASK, 16): len(SEEDS) * len(METHODS),
    }


def test_the_best_rate_is_that_of_the_best_mean():
    areas = {(RATES[0], 101): 0.9, (RATES[0], 102): 0.1, (RATES[1], 101): 0.6, (RATES[1], 102): 0.6}
    assert best_rate(lambda cell: areas.get((cell.rate, cell.seed), 0), "report", "leaf") == RATES[1]


FACTOR = {"grpo": 1.0, "leaf": 1.2, "grpo_floored": 0.5}
"""The reward of step s is s / 100 times this."""


def write_cell(folder, factor, reward=0.5, steps=STEPS, **logged):
    for name in ("metrics", "validation"):
        (folder / name).mkdir(parents=True)
    with open(folder / "metrics/000.jsonl", "w") as file:
        for step in range(1, steps + 1):
            data = {"critic/score/mean": factor * step / 100, "training/rollout_probs_diff_max": 1e-6}
            data |= {f"timing_s/{name}": 1.0 for name in (*report.PHASES, "adv", *(f"adv_{m}" for m in METHODS))}
            data |= {"timing_s/step": 6.0, "timing_s/adv_leaf": 1.6, **logged}
            file.write(json.dumps({"step": step, "data": data}) + "\n")
    row = {"output": "a b c d e", "gts": "a b c d e f", "score": reward, "data_source": "translation"}
    (folder / f"validation/{steps if steps == STEPS else 0}.jsonl").write_text(json.dumps(row))
    (folder / "summary.json").write_text("{}")


@pytest.fixture
def runs(tmp_path):
    """The sweep, in which the second rate is best for all, and three seeds of three methods on each task."""
    for cell in SWEEP:
        write_cell(tmp_path / cell.name, 1.5 if cell.rate == RATES[1] else 1.0)
    for seed in (1, 2, 3):
        for task in TASKS:
            for method, factor in FACTOR.items():
                # Seeds differ more than methods do: only in pairs can the methods be told apart.
                write_cell(tmp_path / Cell(task, method, RATES[1], seed).name, factor + seed, factor / 2)
    for cell in STARTS:
        write_cell(tmp_path / cell.name, 0.0, 0.1, cell.steps)
        write_trace(tmp_path / cell.name / "traces", 1, [forking_prompt()])
    write_cell(tmp_path / COST.name, 1.0)
    return tmp_path


def forking_prompt():
    """Four answers to a prompt, of which the first word settles most."""
    responses = [[1, 3], [1, 4], [2, 3], [2, 4]]
    return traced_prompt(responses, [[0.1, 0.9]] * 4, [1.0, 0.8, 0.2, 0.0], ["", "a", "b", "c", "d"], fork_budget=1)


def test_report(runs):
    report.write(runs, runs / "results", Console(quiet=True))
    rows = list(csv.DictReader((runs / "results/cells.csv").open()))
    assert len(rows) == len(SWEEP) + 3 * 3 * len(TASKS)
    own = {(row["task"], row["method"], row["seed"]): row for row in rows}
    mean_step = (STEPS + 1) / 2
    assert float(own["report", "leaf", "1"]["area"]) == pytest.approx(2.2 * mean_step / 100)
    # The mean of 5 steps of 2 s / 100 reaches x when the last of them is 50 x + 2.
    score = SCORES["translation"][0]
    assert int(own["translation", "grpo", "1"]["rollouts_to_1"]) == round(50 * score + 2) * ROLLOUTS_PER_STEP

    gain = {(row["task"], row["method"]): row for row in csv.DictReader((runs / "results/gain.csv").open())}
    assert float(gain["register", "leaf"]["gain"]) == pytest.approx(0.2 * mean_step / 100)
    assert float(gain["register", "leaf"]["half"]) == pytest.approx(0, abs=1e-9)
    # Pairs within differ by 0.02 on average, pairs across by 0.33 (in halves of squares).
    within, across = 0.02, statistics.fmean([0.8**2, 1.0**2, 0.6**2, 0.8**2]) / 2
    assert float(gain["register", "leaf"]["early"]) == pytest.approx(1 - within / across)
    text = (runs / "results/report.md").read_text()
    assert f"| `leaf` | {RATES[1]:g} | 3 |" in text and f"{0.2 * mean_step / 100:.3f} ± 0.000" in text
    assert "| relative | 1.000 | 1.000 | 1.100 | 1.000 | 1.000 |" in text and "K = 16: no cell is done" in text
    figures = ("curves", "rates", "gain", "pairs")
    assert all((runs / f"results/{name}.{kind}").stat().st_size for name in figures for kind in ("png", "svg", "csv"))


def test_the_report_compares_with_both_baselines(runs):
    """LEAF's reward is 0.6 at the end in each pair, `grpo_floored`'s 0.25: of a cell that is written below."""
    for seed, place in ((1, 0.0), (2, 0.1), (3, 0.2)):
        for method, factor in (("leaf", 1.0), ("grpo_floored", 2.0)):
            folder = runs / Cell("report", method, RATES[1], seed).name
            shutil.rmtree(folder)
            write_cell(folder, factor + seed + place * (method == "leaf"))
    report.write(runs, runs / "results", Console(quiet=True))
    rows = list(csv.DictReader((runs / "results/pairs.csv").open()))
    (row,) = [
        r
        for r in rows
        if (r["task"], r["measure"], r["baseline"], r["method"]) == ("report", "area", "grpo_floored", "leaf")
    ]
    mean_step = (STEPS + 1) / 2
    assert float(row["mean"]) == pytest.approx((-1 + 0.1) * mean_step / 100)
    assert not [r for r in rows if r["method"] == r["baseline"] or r["method"] == "grpo"]
    text = (runs / "results/report.md").read_text()
    assert "BLEU above `grpo_floored`'s" in text and "**What could have been seen**" in text
    assert "**Root mean square of advantages**" in text


def test_the_detectable_difference_is_that_of_a_paired_t_test():
    # Noncentral t by simulation: 6 pairs, 80 % power. And the normal approximation for many pairs.
    draw = np.random.default_rng(0).normal(report.detectable(1.0, 6), 1.0, (20_000, 6))
    found = np.abs(draw.mean(1)) / (draw.std(1, ddof=1) / 6**0.5) > 2.5706
    assert found.mean() == pytest.approx(0.8, abs=0.01)
    assert report.detectable(2.0, 1000) == pytest.approx(2 * (1.96 + 0.8416) / 1000**0.5, rel=0.01)


def test_two_sets_are_taken_together_as_independent():
    shift = {8: (4.0, 5.0, 6.0), 16: (2.0, 3.0, 4.0)}  # means 5 and 3, standard errors 1 / sqrt(3)
    compared = {
        Cell(EARLY_TASK, method, RATES[1], seed, n): {"bleu": own if method == "leaf" else 0.0}
        for n, values in shift.items()
        for seed, own in enumerate(values, 1)
        for method in ("grpo", "leaf")
    }
    # 4 degrees of freedom (equal variances): t = 2.776, error = sqrt(1/3 + 1/3) / 2
    assert f"| `leaf` | +4.0 ± {2.7764 * (2 / 3) ** 0.5 / 2:.1f} |" in report.both_sets(compared)


def test_what_updates_log_is_kept_and_drawn(tmp_path):
    logged = {report.KL: 0.01, report.RMS: 0.9, "actor/grad_norm": 2.0, "actor/other": 1.0}
    cell = Cell("register", "leaf_at_rms", RATES[1], 7)
    write_cell(tmp_path / cell.name, 1.0, **logged)
    report.write(tmp_path, tmp_path / "results", Console(quiet=True))
    rows = list(csv.DictReader((tmp_path / "results/kl.csv").open()))
    assert len(rows) == STEPS and rows[0]["kl"] == "0.01" and rows[0]["rms"] == "0.9"
    assert (tmp_path / "results/kl.png").exists() and (tmp_path / "results/scale.png").exists()
    with tarfile.open(tmp_path / "results/runs.tar.gz") as archive:
        first = json.loads(archive.extractfile(f"{cell.name}/metrics/000.jsonl").readline())
    assert first["data"][report.KL] == 0.01 and "actor/other" not in first["data"]


def test_the_second_study_has_its_cells():
    assert len(SECOND) == len(set(SECOND)) == 6 + 2 * (14 * 4 + 6 * 3) and set(SECOND) <= set(possible())
    for cell in SECOND:  # each is paired with GRPO's, in the same study or the first
        assert Cell(cell.task, "grpo", cell.rate, cell.seed) in possible()


def test_the_report_of_the_second_study():
    def measured(cell: Cell) -> dict:
        value = cell.seed / 100 + (cell.method == "grpo_floored_at_rms") * (0.02 if cell.task == "register" else 0.04)
        return {"area": value, "bleu": 100 * value}

    text = report.second_study({cell: measured(cell) for cell in SECOND})
    assert "| `grpo_floored_at_rms` - `grpo_floored` | mean of both | 6 | 0.030 ± 0.000 |" in text
    assert "| `grpo_prefix` - `grpo` | register | 14 | 0.000 ± 0.000 |" in text
    assert report.second_study({}) is None


def test_an_estimator_at_the_scale_of_grpo():
    draw = torch.Generator().manual_seed(0)
    rewards, mask = torch.zeros(8, 4), torch.ones(8, 4)
    mask[3, 2:] = 0
    rewards[:, 0] = torch.rand(8, generator=draw)
    index = np.array(["a"] * 4 + ["b"] * 4)
    given = {"token_level_rewards": rewards, "response_mask": mask, "index": index}
    batch = {"responses": torch.randint(3, (8, 4), generator=draw)}
    scaled, _ = lane.at_rms_of_grpo("grpo_floored", **given, batch=batch)
    grpo, _ = core_algos.compute_grpo_outcome_advantage(rewards, mask, index)
    assert lane.rms(scaled, mask) == pytest.approx(lane.rms(grpo, mask))
    assert lane.rms(torch.tensor([[3.0, 4.0], [5.0, 9.0]]), torch.tensor([[1, 1], [1, 0]])) == pytest.approx(
        (12.5 / 2 + 12.5) ** 0.5
    )


def test_what_is_packed_gives_the_same_report(runs, tmp_path):
    (runs / SWEEP[0].name / "summary.json").write_text(json.dumps({"model": f"{PROJECT}/work/model"}))
    report.write(runs, runs / "results", Console(quiet=True))
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "xzf", runs / "results/runs.tar.gz", "-C", tmp_path / "unpacked"], check=True)
    assert json.loads((tmp_path / "unpacked" / SWEEP[0].name / "summary.json").read_text()) == {"model": "work/model"}
    report.write(tmp_path / "unpacked", tmp_path / "again", Console(quiet=True))
    for name in ("report.md", "cells.csv", "curves.csv", "gain.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (runs / "results" / name).read_bytes()


def test_a_study_that_is_not_done_has_a_report_of_what_there_is(runs, tmp_path):
    for cell in SWEEP[1:]:
        (runs / cell.name / "summary.json").unlink()
    report.write(runs, runs / "results", Console(quiet=True))
    assert not (runs / "results/gain.csv").exists() and (runs / "results/rates.png").exists()
    text = (runs / "results/report.md").read_text()
    assert "compared when the sweep is done" in text and "no cell is done" not in text


def test_a_single_cell_has_a_report(tmp_path):
    write_cell(tmp_path / Cell("register", "leaf", RATES[1], 1).name, 1.0)
    report.write(tmp_path, tmp_path / "results", Console(quiet=True))
    assert len((tmp_path / "results/cells.csv").read_text().splitlines()) == 2


def test_one_good_step_reaches_no_score(tmp_path):
    cell = Cell("register", "leaf", RATES[1], 1)
    write_cell(tmp_path / cell.name, 1.0)
    folder = RunFolder(tmp_path / cell.name)
    scalars = read_scalars(folder.metrics)
    scalars[report.REWARD][1] = 0.35  # alone above the score of 0.3
    assert report.measure(folder, cell, scalars)["rollouts_to_1"] is None


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
        "first": Cell("translation", "grpo", 2e-3, 1),
        "leaf": Cell("translation", "leaf", 4e-3, 1),
        "k16": Cell("translation", "leaf", 2e-3, 1, 16),
        "other_seed": Cell("translation", "grpo_floored", 2e-3, 2),
        "again": Cell("translation", "grpo", 2e-3, 1),
    }
    out.mkdir()
    # One update a step: verl leaves to chance which prompts share a mini-batch.
    plan = {
        name: [
            *cell.overrides(str(task / "data")),
            f"actor_rollout_ref.actor.ppo_mini_batch_size={3 if name == 'k16' else 6}",
            "trainer.total_training_steps=2",
        ]
        for name, cell in cells.items()
    }
    (out / "cells.json").write_text(json.dumps(plan))
    short = ["trainer.save_freq=1", "reward.custom_reward_function.name=chrf"]
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
    # Adapter, schedule and sampling begin anew, and so does Adam: its first update leads to the same second step, except for
    # a response that may go another way after a rounding.
    assert again[score][1] == pytest.approx(first[score][1], rel=1e-6)
    assert again[gradient][1] == pytest.approx(first[gradient][1], rel=1e-3)
    assert again["actor/lr"] == first["actor/lr"]
    assert leaf["actor/lr"][1] == pytest.approx(2 * first["actor/lr"][1]) != 0
    assert again[kl][1] == pytest.approx(0, abs=1e-9) and first[kl][2] > 1e-4
    assert again[kl][2] == pytest.approx(first[kl][2], rel=0.1)
    assert again[score][2] == pytest.approx(first[score][2], rel=0.02)
    assert leaf[score][1] == pytest.approx(first[score][1], rel=1e-6)
    assert "leaf/fired_share" in leaf and "leaf/fired_share" not in first
    assert other[score][1] != pytest.approx(first[score][1], rel=1e-3)
    for own in scalars.values():
        assert max(own["training/rollout_probs_diff_max"].values()) < 1e-4
    assert all((out / name / "summary.json").exists() for name in cells)
