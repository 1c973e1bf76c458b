"""A run's newest adapter is that of its last step, whatever the folder has been through."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verl_leaf.cli import main
from verl_leaf.runs.adapters import find_saved, lora_rank, saved_steps
from verl_leaf.runs.folder import RunFolder


def save(folder: Path, content: object, at: int = 0) -> Path:
    """A folder that looks like an adapter, of some modification time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nowhere", "of": content}))
    (folder / "adapter_model.safetensors").write_text(str(content))
    for path in (*folder.iterdir(), folder):
        os.utime(path, (at, at))
    return folder


@pytest.mark.parametrize("config", ["[]", "{}", '{"r": "8"}', '{"r": 0}', "[" * 9000, "hello"])
def test_a_configuration_without_a_rank_is_one_line(config, tmp_path):
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ValueError, match=r"adapter_config.json(: r is .*\. It must be 1| names no rank)"):
        lora_rank(tmp_path)


def exported(run: object, out: Path) -> str:
    assert main(["export", str(run), "--out", str(out)]) == 0
    return (out / "adapter_model.safetensors").read_text()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.integers(0, 3000), min_size=1, max_size=5, unique=True),
    times=st.lists(st.integers(0, 10**9), min_size=5, max_size=5),
)
def test_the_newest_is_that_of_the_last_step(tmp_path_factory, steps, times):
    run = RunFolder(tmp_path_factory.mktemp("run"))
    for step, at in zip(steps, times, strict=False):
        save(run.adapter_of(step), step, at)
    assert [adapter.step for adapter in saved_steps(run)] == sorted(steps)
    assert find_saved(str(run.path)).path == run.adapter_of(max(steps))
    for step in steps:
        assert find_saved(f"{run.path}@{step}").path == run.adapter_of(step)


def test_an_older_adapter_of_the_end_gives_way_and_a_newer_one_is_taken(tmp_path):
    run = RunFolder(tmp_path / "run")
    save(run.adapter_of(20), 20, at=5)
    save(run.adapter_of(100), 100, at=1)
    save(run.adapter, "end", at=9)
    assert exported(run.path, tmp_path / "unknown") == "100"
    run.summary.write_text('{"adapter_step": 40}')
    assert exported(run.path, tmp_path / "older") == "100"
    assert exported(f"{run.path}@40", tmp_path / "of_40") == "end"
    run.summary.write_text('{"adapter_step": 120}')
    assert exported(run.path, tmp_path / "newer") == "end"


def test_an_adapter_that_was_cut_off_does_not_count(tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    save(run.adapter_of(10), 10)
    (save(run.adapter_of(20), 20) / "adapter_model.safetensors").unlink()
    (save(run.adapter_of(30), 30) / "adapter_config.json").unlink()
    (run.checkpoints / "global_step_40").mkdir()
    assert exported(run.path, tmp_path / "out") == "10"
    assert f"The adapter of step 10 of {run.path}: {run.adapter_of(10)}" in capsys.readouterr().err
    assert main(["export", f"{run.path}@20", "--out", str(tmp_path / "other")]) == 2
    assert f"no weights for step 20. Choose one of {run.path}@10" in capsys.readouterr().err


def test_epochs_come_one_after_the_other(tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    save(run.epoch(1).adapter_of(900), "first", at=9)
    save(run.epoch(2).adapter_of(100), "second", at=1)
    save(run.epoch(10).adapter_of(100), "tenth", at=0)
    save(run.adapter, "end", at=10)
    assert exported(run.path, tmp_path / "out") == "tenth"
    assert exported(f"{run.path}@900", tmp_path / "of_900") == "first"
    assert exported(f"{run.epoch(2).path}@100", tmp_path / "of_epoch") == "second"
    assert main(["export", f"{run.path}@100", "--out", str(tmp_path / "other")]) == 2
    message = (
        f"several epochs with weights for step 100. Choose one of {run.epoch(2).path}@100, {run.epoch(10).path}@100"
    )
    assert message in capsys.readouterr().err


def test_steps_after_verls_last_checkpoint_are_of_an_earlier_training(tmp_path, capsys):
    """A folder that was trained in a second time keeps the later steps of the first training."""
    run = RunFolder(tmp_path / "run")
    for step in (10, 20):
        save(run.adapter_of(step), step)
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text("20")
    assert exported(run.path, tmp_path / "out") == "20"
    assert "earlier training" not in capsys.readouterr().err
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text("10")
    assert exported(run.path, tmp_path / "again") == "10", "where the run would be resumed, too"
    assert (
        f"(not used, because they are from an earlier training in this folder: {run.path}@20)"
        in capsys.readouterr().err
    )
    assert exported(f"{run.path}@20", tmp_path / "of_20") == "20"


def test_a_run_without_adapters(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "contains no adapter" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no weights for step 3. It has saved none"):
        find_saved(f"{tmp_path}@3")
