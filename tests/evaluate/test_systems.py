"""Systems are found, whatever they are; and picking on a test split is refused."""

import json
import shutil
import sys
from collections import Counter

import pytest

from verl_leaf.checks.model import model_digest
from verl_leaf.cli import main
from verl_leaf.evaluate.data import Data
from verl_leaf.evaluate.generate import Sampling, made_of
from verl_leaf.evaluate.systems import System, parse_system, parse_systems
from verl_leaf.runs.folder import RunFolder


@pytest.fixture
def run(task, tmp_path) -> RunFolder:
    """A run that has kept two adapters."""
    folder = RunFolder(tmp_path / "runs/001")
    for step in (20, 100):
        adapter = folder.adapter_of(step)
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": str(task / "model"), "r": 4})
        )
        (adapter / "adapter_model.safetensors").write_bytes(bytes([step]))
    return folder


def test_a_model_an_adapter_a_run_and_its_checkpoints(task, run, tmp_path, capsys):
    model = task / "model"
    assert parse_system(str(model)) == System("model", model=model)
    assert parse_system(f"base={model}") == System("base", model=model)
    step = run.adapter_of(20)
    assert parse_system(f"{run.path}@20") == System("001@20", model=model, adapter=step)
    assert parse_system(str(step)).adapter == step
    with pytest.raises(ValueError, match="no weights for step 30. Choose one of .*001@20, .*001@100"):
        parse_system(f"{run.path}@30")
    last = run.adapter_of(100)
    assert parse_system(str(run.path)).adapter == last, "the newest of a run that has not ended"
    shutil.copytree(step, run.adapter)
    capsys.readouterr()
    assert parse_system(f"after={run.path}") == System("after", model=model, adapter=last), "not an older adapter/"
    assert f"The adapter of step 100 of {run.path}: {last}\n" == capsys.readouterr().err
    run.summary.write_text('{"adapter_step": 120}')
    assert parse_system(f"after={run.path}") == System("after", model=model, adapter=run.adapter)
    (tmp_path / "a=b").mkdir()
    with pytest.raises(ValueError, match="a=b contains no adapter, model or checkpoint"):
        parse_system(str(tmp_path / "a=b"))


def test_the_model_of_an_adapter_can_be_elsewhere(task, run, tmp_path):
    config = run.adapter_of(20) / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(ValueError, match="its base model .*gone' does not exist. Give it with --base"):
        parse_system(f"{run.path}@20")
    assert parse_system(f"{run.path}@20", base=str(task / "model")).model == task / "model"
    config.write_text("{}")
    with pytest.raises(ValueError, match="names no model"):
        parse_system(f"{run.path}@20")


def test_a_model_that_is_no_speech_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ValueError, match="family: 'llama': the supported families are"):
        parse_system(str(tmp_path))


def test_names_must_differ(task):
    with pytest.raises(ValueError, match="two systems are called model. Give them names, as in before="):
        parse_systems([str(task / "model")] * 2, None)


def test_a_digest_is_of_the_weights(run):
    one, other = run.adapter_of(20), run.adapter_of(100)
    assert model_digest(one) != model_digest(other)
    before = model_digest(one)
    (one / "README.md").write_text("nothing that answers depend on")
    assert model_digest(one) == before
    (one / "adapter_model.safetensors").write_bytes(b"other")
    assert model_digest(one) != before


def test_five_adapters_of_a_model_read_it_once(task, run, data, tmp_path):
    model = shutil.copytree(task / "model", tmp_path / "base")
    adapters = [shutil.copytree(run.adapter_of(20), tmp_path / f"adapter_{n}") for n in range(5)]
    rows, opened, counting = Data(data), Counter(), [True]

    def count(event, arguments):
        if counting and event == "open":
            opened[str(arguments[0])] += 1

    sys.addaudithook(count)  # cannot be taken away again
    made = [made_of(System(adapter.name, model, adapter), rows, Sampling(), {}) for adapter in adapters]
    counting.clear()
    assert all(each == made[0] for each in made) and made[0]["model"] == model_digest(model)
    assert opened[str(model / "model.safetensors")] == opened[str(model / "config.json")] == opened[str(data)] == 1
    assert all(opened[str(adapter / "adapter_model.safetensors")] == 1 for adapter in adapters)


def test_picking_on_a_test_split_is_refused(run, data, capsys):
    test = data.with_name("my_test.parquet")
    shutil.copy(data, test)
    latest = data.with_name("latest.parquet")
    shutil.copy(data, latest)
    for on, more in ((test, []), (latest, ["--data", data])):
        arguments = ["evaluate", "--checkpoints", run.path, "--on", on, *more]
        assert main(list(map(str, arguments))) == 2
        assert "is a test split, or the same file as --data" in capsys.readouterr().err
    assert main(["evaluate", "--checkpoints", str(data.parent / "none"), "--on", str(latest)]) == 2
    assert "contains no adapters or models of checkpoints" in capsys.readouterr().err
