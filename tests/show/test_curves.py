"""Curves come from what a run has logged, whichever way, and runs that differ in seeds only are one method."""

import csv
import json
import re
import shutil

import pytest
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter

from verl_leaf.cli import main
from verl_leaf.runs.compare import method_labels, read_runs
from verl_leaf.show.curves import crossing, mean_and_interval, smoothed, validation_scores

VALIDATION = "val-core/spoken/reward/mean@1"


def logged(validation=(0.1, 0.5)):
    """What verl logs in two steps, validated before and after."""
    return {
        0: {VALIDATION: validation[0], "val-core/spoken_swapped_audio/reward/mean@1": 0.9},
        1: {"critic/score/mean": 0.2, "timing_s/step": 30.0, "training/global_step": 1},
        2: {"critic/score/mean": 0.4, "timing_s/step": 60.0, "training/global_step": 2, VALIDATION: validation[1]},
    }


def write_run(folder, seed, estimator="leaf", validation=(0.1, 0.5), reward="sentence_bleu", **leaf):
    (folder / "metrics").mkdir(parents=True)
    lines = [json.dumps({"step": step, "data": data}) for step, data in logged(validation).items()]
    (folder / "metrics/000.jsonl").write_text("\n".join(lines) + '\n{"step": 3, "da')
    config = {
        "algorithm": {"adv_estimator": estimator, "leaf": {"trace_dir": str(folder), **leaf}},
        "reward": {"custom_reward_function": {"name": reward}},
        "data": {"train_batch_size": 4, "seed": seed, "val_files": [str(folder)]},
        "actor_rollout_ref": {"rollout": {"n": 8}, "actor": {"data_loader_seed": seed}},
    }
    (folder / "hydra/.hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / "hydra/.hydra/config.yaml")
    return folder


def test_a_run_while_it_runs(tmp_path):
    (run,) = read_runs([write_run(tmp_path / "a", 1)])
    assert run.label == "leaf" and run.rollouts_per_step == 32
    assert validation_scores(run) == {"spoken": {0: 0.1, 2: 0.5}}
    assert [run.seconds(step) for step in (0, 1, 2)] == [0, 30, 90]


def test_data_sources_with_slashes_and_accuracies(tmp_path):
    folder = write_run(tmp_path / "a", 1)
    scores = {"fixie-ai/covost2/reward": 0.7, "fixie-ai/covost2_swapped_audio/reward": 0.1, "openai/gsm8k/acc": 0.3}
    data = {f"val-core/{name}/mean@1": score for name, score in scores.items()}
    (folder / "metrics/001.jsonl").write_text(json.dumps({"step": 2, "data": data}) + "\n")
    (run,) = read_runs([folder])
    assert validation_scores(run) == {
        "spoken": {0: 0.1, 2: 0.5},
        "fixie-ai/covost2": {2: 0.7},
        "acc of openai/gsm8k": {2: 0.3},
    }


def test_the_same_from_tensorboard(tmp_path):
    steps = logged()
    for begin in ((0, 1), (1, 2)):  # interrupted; step 1 was run again
        with SummaryWriter(tmp_path / "tensorboard/verl_leaf/a") as writer:
            for step in begin:
                for name, value in steps[step].items():
                    writer.add_scalar(name, value, step)
    write_run(tmp_path / "b", 1)
    from_tensorboard, from_file = read_runs([tmp_path / "tensorboard", tmp_path / "b"])
    assert from_tensorboard.scalars.keys() == from_file.scalars.keys()
    for name, values in from_file.scalars.items():
        assert from_tensorboard.scalars[name] == pytest.approx(values)
    assert (from_tensorboard.label, from_tensorboard.rollouts_per_step) == ("tensorboard", None)


def test_methods_are_told_apart_and_seeds_are_not(tmp_path):
    folders = [
        write_run(tmp_path / "1/leaf", 1, fork_budget=2),
        write_run(tmp_path / "2/leaf", 2, fork_budget=2),
        write_run(tmp_path / "1/wide", 1, fork_budget=4),
        write_run(tmp_path / "1/grpo", 1, "grpo"),
    ]
    runs = read_runs(folders)
    assert [run.label for run in runs] == ["leaf, fork_budget=2"] * 2 + ["leaf, fork_budget=4", "grpo"]
    assert [run.name for run in runs] == ["1/leaf", "2/leaf", "1/wide", "1/grpo"]
    assert method_labels([{}]) == [""]
    with pytest.raises(ValueError, match="is given twice"):
        read_runs([folders[0], folders[0]])


def test_a_run_of_others_shows_no_variable_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2")
    secret, other = "${oc.env:MY_SECRET_TOKEN}", "${no.such.resolver:x}"
    runs = read_runs([write_run(tmp_path / "a", 1, zz_note=secret), write_run(tmp_path / "b", 1, zz_note=other)])
    assert [run.label for run in runs] == [f"leaf, zz_note={secret}", f"leaf, zz_note={other}"]
    config = tmp_path / "a/hydra/.hydra/config.yaml"
    config.write_text(config.read_text().replace("train_batch_size: 4", "train_batch_size: ${algorithm.leaf.size}"))
    config.write_text(config.read_text().replace("  leaf:\n", "  leaf:\n    size: 3\n"))
    assert read_runs([tmp_path / "a"])[0].rollouts_per_step == 24
    config.write_text(config.read_text().replace("size: 3", "size: ${oc.env:MY_SECRET_TOKEN}"))
    (run,) = read_runs([tmp_path / "a"])
    assert run.rollouts_per_step is None and "hunter2" not in run.label


def test_the_figure_says_what_it_shows(tmp_path, capsys):
    def texts(*arguments) -> set[str]:
        assert main(["curves", *map(str, arguments), "--out", str(tmp_path / "out")]) == 0
        return set(re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "out.svg").read_text()))

    run = write_run(tmp_path / "a", 1)
    titles = {"validation: spoken", "training reward, mean of 5 steps"}
    assert {"Learning curves of a", "mean reward (sentence_bleu)", "training step", *titles} <= texts(run)
    assert not {"rollouts", "minutes of training"} & texts(run)
    assert {"rollouts", "minutes of training", *titles} <= texts(run, "--over", "rollouts", "minutes")
    other = write_run(tmp_path / "b", 2, reward=None)
    title = "Learning curves of 2 runs; mean of each method's runs, with its 95 % interval"
    assert {title, "mean reward (sentence_bleu)"} <= texts(run, write_run(tmp_path / "c", 2))
    assert {"mean reward"} <= texts(other)
    shutil.rmtree(other / "hydra")
    assert main(["curves", str(other), "--over", "rollouts"]) == 2
    assert "--over rollouts: b has no configuration" in capsys.readouterr().err


def test_numbers():
    assert smoothed({1: 0.0, 2: 1.0, 3: 2.0, 4: 3.0, 5: 4.0, 6: 5.0}) == {1: 0, 2: 0.5, 3: 1, 4: 1.5, 5: 2, 6: 3}
    mean, half = mean_and_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, half) == (3.0, pytest.approx(2.776445 * 1.581139 / 5**0.5, abs=1e-5))  # t of 4 degrees of freedom
    assert mean_and_interval([2.0]) == (2.0, 0.0)
    assert crossing({20: 0.5, 0: 0.1, 10: 0.5}, 0.5) == 10 and crossing({0: 0.1}, 0.5) is None


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    runs = [write_run(tmp_path / name, 1, name, (0.1, last)) for name, last in (("leaf", 0.6), ("grpo", 0.4))]
    (runs[0] / "summary.json").write_text('{"val": {"after": {"bleu": 61.5}}}')
    out = tmp_path / "curves"
    assert main(["curves", *map(str, runs), "--out", str(out), "--score", "0.3", "--score", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "step 2, 64 rollouts, 1.5 min" in printed and "not yet" in printed and "61.5" in printed
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    values = {(row["method"], row["score"]): float(row["value"]) for row in rows if row["step"] == "2"}
    assert values == {
        ("leaf", "validation: spoken"): 0.6,
        ("leaf", "training reward"): pytest.approx(0.3),  # the mean of both steps
        ("grpo", "validation: spoken"): 0.4,
        ("grpo", "training reward"): pytest.approx(0.3),
    }
    assert printed.count("000.jsonl: 1 of 4 lines are cut off, or not from verl's file logger") == 2
    assert out.with_suffix(".png").exists()
    assert main(["curves", str(tmp_path / "nothing")]) == 2
    assert "contains no metrics/*.jsonl and no TensorBoard files" in capsys.readouterr().err
