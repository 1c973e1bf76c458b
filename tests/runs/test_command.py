"""verl's command of a run: every path and name reaches verl as it is, and the user's overrides win."""

import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from verl_leaf import config
from verl_leaf.common.console import Console
from verl_leaf.runs.command import Part, Training, loggers, verl_command
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.launch import train

ROLLOUT = "actor_rollout_ref.rollout.name=vllm"


def resolved(command):
    """The configuration that verl makes of a command."""
    config.register()
    name = command[3].removeprefix("--config-name=")
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(name, [word for word in command[4:] if not word.startswith("hydra.")])


def command_of(training, folder, adapter=None, **others):
    return verl_command(
        training, Part(folder, adapter), **{"validate_first": True, "val_files": [training.validation], **others}
    )


NAMES = ["20261125", "null", "läufe/一", "a = [b], (c) {d} # & ; ! ~ ' \" \\ e", "${oc.env:HOME}", "\\${x}\\'\\"]


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\\'\"${}"), min_size=1))
@settings(max_examples=500, deadline=None)
def test_a_quoted_value_is_read_as_it_is(value):
    parsed = OverridesParser.create().parse_override(f"key={config.quoted(value)}").value()
    assert OmegaConf.create({"key": parsed}).key == value


@pytest.mark.parametrize("name", NAMES)
def test_any_path_and_name_reaches_verl(name):
    training = Training("leaf", (ROLLOUT,), Path("/val") / name, (Path("/train") / name,), model=name)
    folder = RunFolder(Path("/runs") / name)
    composed = resolved(command_of(training, folder, adapter=folder.adapter))
    assert composed.trainer.experiment_name == folder.path.name
    assert composed.trainer.default_local_dir == str(folder.checkpoints)
    assert composed.algorithm.leaf.trace_dir == str(folder.traces)
    assert composed.actor_rollout_ref.model.path == name
    assert composed.actor_rollout_ref.model.lora_adapter_path == str(folder.adapter)
    assert list(composed.data.val_files) == [str(training.validation)]
    assert str(folder.tensorboard) == composed.ray_kwargs.ray_init.runtime_env.env_vars.TENSORBOARD_DIR


def test_an_override_that_hydra_cannot_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"model.path=/läufe: Hydra cannot read .* \"key='value'\"") as error:
        _ = Training("leaf", ("actor_rollout_ref.model.path=/läufe", ROLLOUT), tmp_path).config
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="algorithm.leaf.forks: leaf has no such setting"):
        _ = Training("leaf", ("algorithm.leaf.forks=2", ROLLOUT), tmp_path).config
    with pytest.raises(ValueError, match="nothing cannot be composed with these overrides: Cannot find primary config"):
        _ = Training("nothing", (), tmp_path).config


def test_overrides_win_over_options_and_what_a_run_adds(tmp_path):
    training = Training("leaf", (ROLLOUT, "trainer.experiment_name=mine", "data.seed=7"), tmp_path / "val.parquet")
    composed = resolved(command_of(training, RunFolder(tmp_path)))
    assert (composed.trainer.experiment_name, composed.data.seed) == ("mine", 7)


@pytest.mark.parametrize(
    "overrides, traced",
    [
        ((), True),
        (("algorithm.adv_estimator=grpo",), False),
        (("algorithm.leaf.trace_dir=/elsewhere",), False),
        (("trainer.use_v1=False",), False),  # the legacy trainer has none
    ],
)
def test_traces_go_into_the_run_unless_there_are_none_or_they_are_placed(tmp_path, overrides, traced):
    command = command_of(Training("leaf", (ROLLOUT, *overrides), tmp_path / "v.parquet"), RunFolder(tmp_path))
    assert (f"++algorithm.leaf.trace_dir='{tmp_path}/traces'" in command) == traced


@pytest.mark.parametrize(
    "value, names",
    [("[wandb]", ["wandb"]), ("mlflow", ["mlflow"]), ("['console','wandb']", ["wandb"]), ("null", []), ("[]", [])],
)
def test_a_run_has_its_own_loggers_beside_those_that_are_asked_for(tmp_path, value, names):
    composed = Training("leaf", (ROLLOUT, f"trainer.logger={value}"), tmp_path).config
    assert loggers(composed) == ["console", "tensorboard", "file", *names]


@pytest.mark.parametrize("value", ["3", "[1]"])
def test_loggers_that_are_none_are_named(tmp_path, value):
    composed = Training("leaf", (ROLLOUT, f"trainer.logger={value}"), tmp_path).config
    with pytest.raises(ValueError, match=r"trainer.logger=.*: set it to the name of a logger, or a list of names"):
        loggers(composed)


def test_a_printed_command_can_be_pasted_into_a_shell(tmp_path):
    training = Training("leaf", (ROLLOUT,), tmp_path / "it's.parquet")
    command = command_of(training, RunFolder(tmp_path))
    assert shlex.split(" \\\n  ".join(map(shlex.quote, command)).replace("\\\n", "")) == command


def test_a_start_composes_the_configuration_once(monkeypatch, tmp_path, capsys):
    """Composing takes seconds."""
    composed = []

    def count(*arguments):
        composed.append(arguments)
        return config.compose(*arguments)

    monkeypatch.setattr("verl_leaf.runs.command.compose", count)
    training = Training("leaf", (ROLLOUT, "actor_rollout_ref.rollout.n=8"), tmp_path / "val.parquet", epochs=3)
    assert train(training, RunFolder(tmp_path / "run"), Console(), dry=True) == 0
    assert capsys.readouterr().out.count("verl.trainer.main_ppo") == 3
    assert len(composed) == 1
