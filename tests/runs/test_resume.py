"""A setting that changes between two starts of a run counts, or stops the run: what counts is asked of verl and torch."""

import functools
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.utils import create_rl_sampler
from verl.utils.torch_functional import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from verl_leaf.common.console import Console
from verl_leaf.config import compose
from verl_leaf.runs.command import Training
from verl_leaf.runs.folder import LAST_CHECKPOINT, RunFolder
from verl_leaf.runs.launch import check
from verl_leaf.runs.resume import check_changes, checkpoint_to_load, made_of, reusable_validation

OPTIM = "actor_rollout_ref.actor.optim"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A model, and rows to train and to validate on, whose audio is in another folder."""
    folder = tmp_path_factory.mktemp("data") / "data"
    for name in ("model", "clips", "train", "val"):
        (folder / name).mkdir(parents=True)
    (folder / "model/config.json").write_text("{}")
    (folder / "model/model.safetensors").write_bytes(b"weights")
    for name in ("train", "val"):
        (folder / f"clips/{name}.wav").write_bytes(name.encode())
        row = {"data_source": "a", "prompt": [{"role": "user", "content": "<audio>?"}]}
        row |= {"audios": [f"../clips/{name}.wav"], "reward_model": {"ground_truth": name}}
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / name / "rows.parquet")
    return folder


@functools.cache
def composed(config_name: str) -> DictConfig:
    """Composing takes seconds."""
    return compose(config_name, ["actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.rollout.n=8"])


def training(data: Path, *overrides: str, config_name="leaf", **others) -> Training:
    rows = {"train": (data / "train/rows.parquet",), "validation": data / "val/rows.parquet"}
    training = Training(config_name, overrides, **{"model": str(data / "model"), **rows, **others})
    asked = {
        "data": {"train_files": list(map(str, training.train))},
        "actor_rollout_ref": {"model": {"path": training.model}},
    }
    training.config = OmegaConf.merge(composed(config_name), asked, OmegaConf.from_dotlist(list(overrides)))
    return training


class Run:
    """A run that has trained two steps and saved the second."""

    def __init__(self, path: Path, data: Path, *overrides: str, **others):
        self.folder, self.data = RunFolder(path), data
        self.folder.metrics.mkdir(parents=True)
        self.start(*overrides, **others)
        (self.folder.metrics / "000.jsonl").write_text("{}\n")
        (self.folder.checkpoints / "global_step_2").mkdir(parents=True)
        (self.folder.checkpoints / LAST_CHECKPOINT).write_text("2")

    def start(self, *overrides: str, **others) -> str:
        """What is said of the changes when it starts."""
        asked = training(self.data, *overrides, **others)
        loaded = checkpoint_to_load(asked.config, self.folder)
        console = Console(width=1000)
        with console.capture() as said:
            check_changes(made_of(asked), self.folder, [loaded] if loaded else [], console)
        return said.get()


@pytest.fixture
def run(tmp_path, data):
    return Run(tmp_path / "run", data)


def trained(lr=0.1, betas=(0.9, 0.99), weight_decay=0.0, state=None, **schedule):
    """Optimiser and schedule as verl's FSDP engine makes and loads them, after two steps; and their states."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=lr, betas=betas, weight_decay=weight_decay)
    make = get_cosine_schedule_with_warmup if "num_training_steps" in schedule else get_constant_schedule_with_warmup
    scheduler = make(optimizer, **{"num_warmup_steps": 0, **schedule})
    if state is not None:
        optimizer.load_state_dict(state[0])
        scheduler.load_state_dict(state[1])
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    return optimizer.param_groups[0], scheduler.get_last_lr(), (optimizer.state_dict(), scheduler.state_dict())


def test_what_torch_restores_is_refused_and_what_it_does_not_counts(run):
    """The table against the library: each setting is changed for real, and then in a run."""
    *_, state = trained()
    group, _, _ = trained(lr=0.2, betas=(0.5, 0.5), weight_decay=0.1, state=state)
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.1, (0.9, 0.99), 0.0)
    for override in (f"{OPTIM}.lr=0.5", f"{OPTIM}.betas=[0.5,0.5]", f"{OPTIM}.weight_decay=0.5"):
        with pytest.raises(ValueError, match=rf"{override.split('=')[0]}=.* \(before: .*\) changes the"):
            run.start(override)
    _, (rate,), _ = trained(state=state, num_training_steps=8, min_lr_ratio=0.5)
    assert rate == pytest.approx(0.075)  # half of the way to 0.05, though the schedule before was constant
    said = run.start(f"{OPTIM}.lr_scheduler_type=cosine", f"{OPTIM}.min_lr_ratio=0.5", "trainer.total_training_steps=8")
    for name in ("lr_scheduler_type=cosine", "min_lr_ratio=0.5", "total_training_steps=8"):
        assert name in said


def loader(rows=40, state=None, workers=0, **config):
    sampler = create_rl_sampler(OmegaConf.create({"shuffle": True, "seed": 1, **config}), list(range(rows)))
    data = StatefulDataLoader(list(range(rows)), batch_size=4, num_workers=workers, sampler=sampler)
    if state is not None:
        data.load_state_dict(state)
    return data


def test_the_order_of_rows_is_the_checkpoints(run):
    data = loader()
    rows = iter(data)
    for _ in range(3):
        next(rows)
    state, follows = data.state_dict(), next(rows).tolist()
    assert next(iter(loader(state=state))).tolist() == follows
    assert next(iter(loader(state=state, seed=2))).tolist() == follows  # whatever is asked
    assert next(iter(loader(state=state, rows=41))).tolist() != follows
    with pytest.raises(AssertionError):
        next(iter(loader(state=state, workers=1)))
    for override in ("data.seed=2", "data.dataloader_num_workers=1", "data.train_batch_size=8", "data.shuffle=False"):
        with pytest.raises(
            ValueError, match="changes the order of the training rows, which is fixed by the checkpoint"
        ):
            run.start(override)


@pytest.mark.parametrize(
    "override, what",
    [
        ("algorithm.adv_estimator=grpo", r"algorithm.adv_estimator=grpo \(before: leaf\) changes METHOD"),
        ("actor_rollout_ref.model.lora_rank=8", "changes LoRA"),
        ("actor_rollout_ref.model.lora_alpha=99", "changes LoRA"),
        ("actor_rollout_ref.model.target_modules=[q_proj]", "changes LoRA"),
        ("trainer.n_gpus_per_node=2", "changes the number of GPUs"),
        ("trainer.nnodes=2", "changes the number of GPUs"),
        ("actor_rollout_ref.actor.strategy=fsdp2", "changes the sharding of the weights"),
        ("data.val_max_samples=1", "changes the validation rows"),
        ("actor_rollout_ref.model.lora_adapter_path=/elsewhere", "changes the weights to start from"),
    ],
)
def test_what_a_run_must_have_in_common_is_refused_before_anything_is_recorded(run, override, what):
    before = run.folder.read_made_of()
    with pytest.raises(ValueError, match=what) as error:
        run.start(override)
    assert "\n" not in str(error.value) and str(run.folder.path) in str(error.value)
    assert run.folder.read_made_of() == before


def test_what_counts_is_said_once_and_what_is_harmless_is_not(run):
    harmless = (
        "trainer.save_freq=7",
        "trainer.logger=[wandb]",
        "trainer.experiment_name=b",
        "trainer.rollout_data_dir=/c",
    )
    assert run.start() == run.start(*harmless) == ""
    counts = (*harmless, "actor_rollout_ref.actor.clip_ratio=0.3", "actor_rollout_ref.rollout.n=4")
    said = run.start(*counts)
    assert "continues with actor_rollout_ref.actor.clip_ratio=0.3 (before: 0.2), " in said
    assert "actor_rollout_ref.rollout.n=4 (before: 8)" in said
    assert "rollout_n=" not in said, "what follows from another setting is not said again"
    assert run.start(*counts) == ""


def test_a_limit_counts_unless_it_decides_which_rows_there_are(run, tmp_path, data):
    assert "max_prompt_length=99" in run.start("data.max_prompt_length=99")
    filtering = Run(tmp_path / "filtering", data, "data.filter_overlong_prompts=True")
    with pytest.raises(ValueError, match="changes which training rows are left out"):
        filtering.start("data.filter_overlong_prompts=True", "data.max_prompt_length=99")


def test_the_same_gpus_on_other_nodes_are_as_many(tmp_path, data):
    run = Run(tmp_path / "run", data, "trainer.nnodes=2", "trainer.n_gpus_per_node=4")
    assert run.start("trainer.nnodes=1", "trainer.n_gpus_per_node=8") == ""


def test_a_new_learning_rate_counts_if_only_weights_are_loaded(run):
    only_weights = "actor_rollout_ref.actor.checkpoint.load_contents=[model]"
    with pytest.raises(ValueError, match=r"load_contents=\[model\]"):
        run.start(f"{OPTIM}.lr=0.5")
    assert f"{OPTIM}.lr=0.5" in run.start(f"{OPTIM}.lr=0.5", only_weights)


def test_files_count_by_what_they_hold(run, data):
    moved = data.with_name("moved")
    os.rename(data, moved)
    run.data = moved
    try:
        assert run.start() == ""
        for name, content, what in (
            ("train/rows.parquet", (moved / "val/rows.parquet").read_bytes(), "order of the training rows"),
            ("model/model.safetensors", b"others", "base model"),
        ):
            before = (moved / name).read_bytes()
            (moved / name).write_bytes(content)
            with pytest.raises(ValueError, match=f"the same path with other content.* changes the {what}"):
                run.start()
            (moved / name).write_bytes(before)
        assert run.start() == ""
    finally:
        os.rename(moved, data)


def test_a_training_without_a_checkpoint_begins_again_with_what_is_asked(run):
    (run.folder.checkpoints / LAST_CHECKPOINT).unlink()
    assert f"starts again with {OPTIM}.lr=0.5" in run.start(f"{OPTIM}.lr=0.5")
    assert len(run.folder.read_made_of()) == 1
    with pytest.raises(ValueError, match="changes METHOD"):
        run.start("algorithm.adv_estimator=grpo")


def test_warm_restarts_and_one_training_are_different_runs(run):
    with pytest.raises(ValueError, match=r"EPOCHS=2 or more \(before: 1\)"):
        run.start(epochs=3)


@pytest.mark.parametrize("mode", ["disable", "resume_path"])
def test_no_folder_gets_the_weights_of_two_trainings(run, mode):
    earlier, newest = (run.folder.checkpoints / f"global_step_{step}" for step in (1, 2))
    earlier.mkdir()
    with pytest.raises(ValueError, match=rf"resume_mode={mode}: .* contains a checkpoint of step 2"):
        run.start(f"trainer.resume_mode={mode}", f"trainer.resume_from_path={earlier}")
    assert run.start("trainer.resume_mode=resume_path", f"trainer.resume_from_path={newest}") == ""
    with pytest.raises(ValueError, match="there is no such checkpoint"):
        run.start("trainer.resume_mode=resume_path", f"trainer.resume_from_path={newest}/actor")


def test_a_new_run_from_the_checkpoint_of_another_is_compared_with_that(run, tmp_path):
    checkpoint = run.folder.checkpoints / "global_step_2"
    how = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}")
    run.folder = RunFolder(tmp_path / "new")
    with pytest.raises(ValueError, match="changes the learning rate, which is fixed by the checkpoint"):
        run.start(*how, f"{OPTIM}.lr=0.5")
    assert "adv_estimator=grpo (before: leaf)" in run.start(*how, "algorithm.adv_estimator=grpo")


def test_a_mode_that_cannot_be_is_named(run, data, tmp_path):
    with pytest.raises(ValueError, match="resume_mode=resume: this mode does not exist"):
        run.start("trainer.resume_mode=resume")
    with pytest.raises(ValueError, match="each of 3 warm restarts"):
        check(training(data, "trainer.resume_mode=resume_path", epochs=3))
    with pytest.raises(ValueError, match="default_local_dir: a run keeps its checkpoints in its own folder"):
        check(training(data, f"trainer.default_local_dir={tmp_path}"))


def test_answers_serve_again_only_for_the_same_model_rows_and_audio(tmp_path, data):
    """Whatever the times say."""

    def now(*overrides):
        return made_of(training(data, *overrides, config_name="leaf_speech"))

    run = Run(tmp_path / "runs/001", data, config_name="leaf_speech")
    answers, new = run.folder.answers_of(0), RunFolder(tmp_path / "runs/002")
    answers.parent.mkdir()
    answers.touch()
    assert reusable_validation(new, now("trainer.save_freq=3")) == answers
    assert reusable_validation(new, now("actor_rollout_ref.rollout.val_kwargs.temperature=0.1")) is None
    for name in ("model/model.safetensors", "val/rows.parquet", "clips/val.wav"):
        file = data / name
        content, old = file.read_bytes(), file.stat().st_mtime - 1000
        if name.endswith("parquet"):
            table = pyarrow.parquet.read_table(file)
            pyarrow.parquet.write_table(table.append_column("more", [["x"]]), file)
        else:
            file.write_bytes(content[::-1])
        os.utime(file, (old, old))
        assert reusable_validation(new, now()) is None, name
        file.write_bytes(content)
        assert reusable_validation(new, now()) == answers, "the content is as it was, only newer"
    assert reusable_validation(run.folder, now()) is None
    assert reusable_validation(new, made_of(training(data, model="Qwen/Qwen2-Audio-7B"))) is None
