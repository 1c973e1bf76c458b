"""Every recipe's configuration: valid for verl, and what the tables in README.md say."""

import os
import re
import subprocess

import pytest
import yaml
from omegaconf import OmegaConf
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from tests.helpers import PROJECT
from verl_leaf.algorithm.estimators import ESTIMATORS
from verl_leaf.config import compose

README = (PROJECT / "recipes/README.md").read_text(encoding="utf-8")
RECIPES = {
    row[0]: row[1:]
    for row in re.findall(r"^\| `recipes/(\w[\w.]*)\.sh` \| `([^`]*)` \| (\d+) \|", README, re.MULTILINE)
}
TABLE = README.split("## The published configuration")[1]
PUBLISHED = {
    flag: yaml.safe_load(value)
    for flag, value in re.findall(r"^\| [^|]* \| `([\w.]+)` \| ([^|]+) \|", TABLE, re.MULTILINE)
}
METHODS = ("grpo", *ESTIMATORS)


def resolve(command, *changes):
    """verl's configuration of a command, after verl's own checks and ours."""
    assert command[1:3] == ["-m", "verl.trainer.main_ppo"]
    name = command[3].removeprefix("--config-name=")
    # A run's own files hold no more rows than val_max_samples, so it is told to take all.
    settings = [word for word in command[4:] if not word.startswith("hydra.") and word != "data.val_max_samples=-1"]
    config = compose(name, [*settings, *changes])
    validate_config(config, need_reference_policy(config), need_critic(config))
    return config


@pytest.fixture
def here(task, tmp_path):
    """Changes that let a command be checked where the model and the run's folder are not: remote storage is not looked at."""
    return ["actor_rollout_ref.model.path=s3://models/any", f"data.val_files=[{task}/data/val.parquet]"]


def test_the_tables_are_read():
    assert len(RECIPES) == len(list((PROJECT / "recipes").glob("*_leaf.sh"))) == 8
    rows = [line for line in TABLE.splitlines() if line.startswith("| ")]
    without_setting = [line for line in rows if "| none |" in line]
    assert len(PUBLISHED) == len(rows) - 2 - len(without_setting) == 38, "head, rule and what has no setting left out"


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=() if name == "qwen2audio_leaf" else pytest.mark.slow) for name in RECIPES],
)
def test_a_recipe_is_what_the_tables_say(dry_run, here, recipe):
    model, prompt = RECIPES[recipe]
    (command,) = dry_run(recipe)
    here_or_hub = PROJECT / model if model.startswith("work/") else model
    assert f"actor_rollout_ref.model.path='{here_or_hub}'" in command
    config = resolve(command, *here)
    expected = {**PUBLISHED, "data.max_prompt_length": int(prompt)}
    if recipe == "qwen3omni_30b_leaf":  # whose experts are frozen
        expected["actor_rollout_ref.model.target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert {
        flag: OmegaConf.to_object(OmegaConf.create({"x": OmegaConf.select(config, flag)}))["x"] for flag in expected
    } == (expected)


@pytest.mark.slow
def test_one_variable_is_the_method(dry_run, here):
    commands = {method: dry_run("qwen2audio_leaf", METHOD=method)[0] for method in METHODS}
    for method, command in commands.items():
        assert resolve(command, *here).algorithm.adv_estimator == method
        others = [word for word in command if not word.startswith(("algorithm.adv_estimator", "++algorithm.leaf"))]
        assert others == [word for word in commands["grpo"] if "algorithm.adv_estimator" not in word]
    with pytest.raises(
        ValueError,
        match=r"adv_estimator=ppo: there is no such estimator.* Choose one of leaf, grpo_floored, grpo_prefix, tempo, lambda_grpo, gae, .*grpo, ",
    ):
        dry_run("qwen2audio_leaf", METHOD="ppo")


@pytest.mark.slow
def test_one_variable_is_the_data(dry_run, tmp_path):
    with pytest.raises(
        ValueError, match="DATA=common is not valid. Valid values are librisqa, covost2, dailytalk, parliament"
    ):
        dry_run("qwen2audio_leaf", DATA="common")
    with pytest.raises(ValueError, match="Set either DATA=, or TRAIN= and VAL="):
        dry_run("qwen2audio_leaf", DATA="covost2", TRAIN="", VAL="val.parquet")
    with pytest.raises(ValueError, match=r"data/covost2 has no train.parquet. Make it with `verl-leaf prepare covost2"):
        dry_run("granite4.0_1b_leaf", DATA="covost2", TRAIN="", VAL="")
    project = tmp_path / "project"
    for folder in ("recipes", "data/librisqa"):
        (project / folder).mkdir(parents=True)
    for file in (PROJECT / "recipes").glob("*.sh"):
        (project / "recipes" / file.name).write_text(file.read_text())
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation"):
        (project / f"data/librisqa/{name}.parquet").touch()
    (command,) = dry_run(project / "recipes/qwen2audio_leaf", DATA="librisqa", TRAIN="", VAL="")
    folder = project / "data/librisqa"
    shards = ",".join(f"'{folder}/train-0000{number}-of-00002.parquet'" for number in (0, 1))
    assert f"data.train_files=[{shards}]" in command
    assert "data.long_audio=cut" in command


@pytest.mark.slow
def test_a_recipe_may_be_a_link_and_paths_start_where_the_user_is(dry_run, tmp_path, monkeypatch):
    """The project's own folders, as runs/, stay in the project."""
    for folder in ("stand/model", "links"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "links/one.sh").symlink_to(PROJECT / "recipes/qwen2audio_leaf.sh")
    (tmp_path / "links/two.sh").symlink_to("one.sh")
    monkeypatch.chdir(tmp_path / "stand")
    paths = {"TRAIN": "train.parquet", "VAL": "../val.parquet", "MODEL": "model"}
    (command,) = dry_run(tmp_path / "links/two", RUN="", **paths)
    here = tmp_path / "stand"
    assert f"data.train_files=['{here}/train.parquet']" in command
    assert f"actor_rollout_ref.model.path='{here}/model'" in command
    assert f"trainer.default_local_dir='{PROJECT}/runs/qwen2audio_leaf/001/checkpoints'" in command
    (command,) = dry_run(tmp_path / "links/two", RUN="run", **paths)
    assert f"trainer.default_local_dir='{here}/run/checkpoints'" in command


@pytest.mark.slow
def test_epochs_are_warm_restarts(dry_run, here, tmp_path):
    first, second, third = (resolve(command, *here) for command in dry_run("granite3.3_8b_leaf", EPOCHS="3"))
    assert first.actor_rollout_ref.model.lora_adapter_path is None
    assert second.actor_rollout_ref.model.lora_adapter_path == str(tmp_path / "run/epoch_1/adapter")
    assert third.actor_rollout_ref.model.lora_adapter_path == str(tmp_path / "run/epoch_2/adapter")
    assert [config.data.seed for config in (first, second, third)] == [1, 1, 1]
    assert {config.trainer.total_epochs for config in (first, second, third)} == {1}
    assert len({config.trainer.default_local_dir for config in (first, second, third)}) == 3


@pytest.mark.parametrize("gpus, nodes", [(1, 1), (2, 1), (4, 1), (8, 1), (6, 1), (8, 2), (4, 4), (8, 4)])
def test_every_gpu_gets_its_share_of_a_step(gpus, nodes):
    config = compose("leaf_speech", [f"trainer.n_gpus_per_node={gpus}", f"trainer.nnodes={nodes}"])
    n, ranks, actor = config.actor_rollout_ref.rollout.n, gpus * nodes, config.actor_rollout_ref.actor
    share, left = divmod(actor.ppo_mini_batch_size * n, ranks)
    assert share >= 1 and not left and share % actor.ppo_micro_batch_size_per_gpu == 0
    assert config.data.train_batch_size % actor.ppo_mini_batch_size == 0 and config.data.train_batch_size >= 6
    for role in ("rollout", "ref"):
        assert share % config.actor_rollout_ref[role].log_prob_micro_batch_size_per_gpu == 0


@pytest.mark.slow
def test_without_a_gpu_a_dry_run_shows_the_command_for_gpus(dry_run):
    (command,) = dry_run("qwen2audio_leaf", gpus=0, GPUS="2")
    assert "--config-name=leaf_speech" in command and "trainer.n_gpus_per_node=2" in command
    assert "actor_rollout_ref.model.path='Qwen/Qwen2-Audio-7B'" in command


@pytest.mark.slow
def test_a_dry_run_does_not_make_the_example(dry_run, tmp_path):
    (command,) = dry_run("qwen2audio_leaf", gpus=0, TRAIN="", VAL="", TASK=str(tmp_path / "example"))
    assert "--config-name=leaf_speech_cpu" in command
    assert f"data.train_files=['{tmp_path}/example/data/train.parquet']" in command
    assert not (tmp_path / "example").exists()


@pytest.mark.slow
def test_overrides_come_last(dry_run, here):
    (command,) = dry_run("qwen2audio_leaf", "data.train_batch_size=12", "trainer.logger=[wandb]", gpus=6, NODES="2")
    config = resolve(command, *here)
    assert (config.trainer.n_gpus_per_node, config.trainer.nnodes) == (6, 2)
    assert config.data.train_batch_size == 12
    assert list(config.trainer.logger) == ["console", "tensorboard", "file", "wandb"]


def test_a_slurm_job_starts_a_cluster_and_the_recipe(tmp_path):
    """With stand-ins for Slurm and Ray, which note how they are called."""
    calls = tmp_path / "calls"
    stand_ins = {
        "scontrol": "echo one; echo two",
        "srun": f'echo "$*" >> {calls}; sleep 60',
        "python": "echo 2",
        "ray": "exit 0",
        "verl-leaf": f'echo "$RAY_ADDRESS verl-leaf $*" >> {calls}',
        "nvidia-smi": "echo GPU 0: NVIDIA",
    }
    folder = tmp_path / "venv/bin"
    folder.mkdir(parents=True)
    for name, body in stand_ins.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    subprocess.run(
        ["bash", "recipes/slurm.sh", "recipes/granite4.0_1b_leaf.sh", "data.seed=3"],
        env={
            "PATH": os.environ["PATH"],
            **{"VENV": str(tmp_path / "venv"), "SLURM_JOB_NODELIST": "[one,two]", "SLURM_JOB_ID": "7"},
            **{"SLURM_GPUS_ON_NODE": "4", "TRAIN": "train.parquet", "VAL": "val.parquet"},
        },
        cwd=PROJECT,
        check=True,
        timeout=60,
    )
    head, worker, train = sorted(calls.read_text().splitlines(), key=lambda line: ("verl-leaf" in line, "two" in line))
    assert head == "--nodes=1 --ntasks=1 --nodelist=one ray start --head --port=20007 --num-gpus=4 --block"
    assert worker == "--nodes=1 --ntasks=1 --nodelist=two ray start --address=one:20007 --num-gpus=4 --block"
    assert train.startswith(
        f"one:20007 verl-leaf train --runs {PROJECT}/runs/granite4.0_1b_leaf --config-name leaf_speech --family granite"
    )
    assert "trainer.nnodes=2" in train and "trainer.n_gpus_per_node=4" in train and train.endswith("data.seed=3")
