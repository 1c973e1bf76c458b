"""What must be true of a run, seen through real verl, Ray, vLLM and FSDP2."""

import json
import re
import shutil
import statistics
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from tests.helpers import PROJECT, comparing
from tests.helpers.recipe import Recipe, kill, wait_for
from verl_leaf.cli import main
from verl_leaf.models.features import concatenate
from verl_leaf.runs.traces import read_trace
from verl_leaf.show.forks import collect
from verl_leaf.speech.agent_loop import NOT_STORED

pytestmark = pytest.mark.e2e

STEPS = 3
PARITY = 1e-4  # the most that a probability may differ between rollout and actor, in fp32
SHORT = [
    f"trainer.total_training_steps={STEPS}",
    "trainer.save_freq=1",
    "trainer.test_freq=-1",
    "trainer.max_actor_ckpt_to_keep=null",
    "algorithm.leaf.trace_every=1",
]


@pytest.fixture(scope="module")
def trained(task, tmp_path_factory):
    """A run of three steps with a tool that returns audio, killed after its first checkpoint and started again."""
    record = tmp_path_factory.mktemp("record")
    recipe = Recipe(task, tmp_path_factory.mktemp("trained"), ROLLOUT_RECORD=str(record))
    overrides = [
        *SHORT,
        "actor_rollout_ref.rollout.agent.agent_loop_manager_class=tests.helpers.agent_loops.RecordingManager",
        # Several turns, of which a tool's have audio.
        f"actor_rollout_ref.rollout.multi_turn.tool_config_path={PROJECT / 'tests/helpers/tools.yaml'}",
        "actor_rollout_ref.rollout.multi_turn.format=often",
        "data.max_response_length=160",
        "reward.custom_reward_function.name=chrf",  # not 0 for answers that are short and wrong
    ]
    process = recipe.start(*overrides)
    checkpoints = recipe.run / "checkpoints"
    try:
        wait_for(lambda: 1 in recipe.scalars().get("training/global_step", ()), process)
    finally:
        kill(process)
    recipe.killed_at = int((checkpoints / "latest_checkpointed_iteration.txt").read_text())
    assert recipe.killed_at < STEPS
    recipe.finish(*overrides)
    recipe.rollouts = [torch.load(file, weights_only=True) for file in record.glob("*.pt")]
    return recipe


@pytest.mark.quick
def test_rollout_and_actor_agree_at_every_step(trained):
    difference = trained.scalars()["training/rollout_probs_diff_max"]
    assert sorted(difference) == [1, 2, 3]
    assert max(difference.values()) < PARITY


def test_audio_of_a_tool_is_heard_and_not_trained_on(trained):
    """That it reaches the actor is what the test above holds: without it, or in another order, probabilities would differ."""
    clips = [len(rollout["features"]) for rollout in trained.rollouts]
    assert min(clips) == 1 and max(clips) >= 3
    for rollout in trained.rollouts:
        turns = "".join(map(str, rollout["mask"])).split("0")
        assert sum(map(bool, turns)) == len(rollout["features"])
        assert not any(p for p, written in zip(rollout["log_probs"], rollout["mask"], strict=True) if not written)


def test_goes_on_from_the_checkpoint_after_a_kill(trained):
    log = (trained.run / "train.log").read_text(errors="replace")
    assert f"setting global step to {trained.killed_at}" in log
    assert "step:1 - " not in log.split("setting global step to")[1], "the resumed run began again"


def test_checkpoints_hold_lora_alone_and_every_adapter_is_kept(trained):
    """Also what the run went on from: the base model is where it came from."""
    for step in range(1, STEPS + 1):
        folder = trained.run / f"checkpoints/global_step_{step}"
        weights = torch.load(folder / "actor/model_world_size_1_rank_0.pt", weights_only=False)
        assert weights and all("lora_" in name for name in weights)
        assert (folder / "adapter/adapter_model.safetensors").exists()


def test_adapter_reaches_vllm_and_loads_in_plain_peft(trained):
    """The rollouts of step 3 have the log-probabilities of the adapter exported after step 2, and of no other."""
    rollouts = [rollout for rollout in trained.rollouts if rollout["step"] == STEPS - 1]
    assert len(rollouts) >= 32
    current, previous = (
        _log_prob_difference(trained.model, trained.run / f"checkpoints/global_step_{step}/adapter", rollouts)
        for step in (STEPS - 1, STEPS - 2)
    )
    assert current < 1e-4
    assert previous > 1e-3


def test_what_is_stored_with_a_response_is_what_is_read(trained):
    read = {"uid", "raw_prompt", "data_source", "reward_model", "multi_modal_inputs", "rm_scores", "rollout_log_probs"}
    for rollout in trained.rollouts:
        assert read <= set(rollout["stored"]) and NOT_STORED.isdisjoint(rollout["stored"])


def test_the_libraries_do_not_warn_with_every_response(trained):
    log = (trained.run / "train.log").read_text(errors="replace")
    assert "Total training steps" in log
    assert "target_num_threads" not in log  # TransferQueue
    assert not re.search("Continuous Token builder.*repeated", log)  # verl; Ray says so of lines that come again


def test_summary(trained):
    summary = json.loads((trained.run / "summary.json").read_text())
    assert summary["method"] == "leaf"
    assert summary["model"] == str(trained.model)
    assert (summary["steps"], summary["rollouts"]) == (STEPS, STEPS * 4 * 8)
    assert {"before", "after", "swapped_audio"} <= summary["val"].keys()
    assert summary["rollout_probs_diff_max"] < PARITY
    assert (trained.run / "adapter" / "adapter_model.safetensors").exists()


def test_leaf_reports_its_metrics(trained):
    assert sum(name.startswith("leaf/") for name in trained.scalars()) >= 10


def test_a_run_can_be_looked_at(trained, tmp_path):
    """The page is there when the run ends; the figures can be had of it."""
    scalars = trained.scalars()
    for step in range(1, STEPS + 1):
        trace = read_trace(step, trained.run / f"traces/step_{step:06d}.jsonl", skipped := [])
        assert not skipped and len(trace.prompts) == 4
        rewards = [response.reward for prompt in trace.prompts.values() for response in prompt.responses]
        assert statistics.fmean(rewards) == pytest.approx(scalars["critic/score/mean"][step], abs=1e-5)
        forks = collect((step, prompt) for prompt in trace.prompts.values())
        share = statistics.fmean(boundary.fired for boundary in forks.boundaries)
        assert share == pytest.approx(scalars["leaf/fired_share"][step])
    assert "data:audio/mpeg" in (trained.run / "tree.html").read_text()
    for command in ("forks", "curves"):
        assert main([command, str(trained.run), "--out", str(tmp_path / command)]) == 0
        assert {file.suffix for file in tmp_path.glob(f"{command}.*")} == {".png", ".svg", ".csv"}


@pytest.mark.thorough
def test_a_run_that_is_told_to_stop_saves_its_step_and_goes_on(task, tmp_path):
    recipe = Recipe(task, tmp_path)
    overrides = [
        "trainer.total_training_steps=8",
        "trainer.save_freq=100",
        "trainer.test_freq=-1",
        "trainer.val_before_train=False",
    ]
    process = recipe.start(*overrides)
    try:
        wait_for(lambda: 1 in recipe.scalars().get("training/global_step", ()), process)
        process.terminate()
        assert process.wait(timeout=600) == 143
    finally:
        kill(process)
    last = int((recipe.run / "checkpoints/latest_checkpointed_iteration.txt").read_text())
    assert 1 < last < 8 and max(recipe.scalars()["training/global_step"]) == last
    assert not (recipe.run / "summary.json").exists()
    recipe.finish(*overrides)
    assert f"setting global step to {last}" in (recipe.run / "train.log").read_text(errors="replace")


@pytest.mark.thorough
def test_other_audio_at_the_actor_is_seen(task, tmp_path):
    """The control: without it, a parity check that never fails would look the same."""
    recipe = Recipe(task, tmp_path)
    recipe.finish(
        *SHORT,
        "trainer.total_training_steps=1",
        "actor_rollout_ref.rollout.agent.agent_loop_manager_class=tests.helpers.agent_loops.OtherAudioManager",
    )
    assert recipe.scalars()["training/rollout_probs_diff_max"][1] > 10 * PARITY


def test_a_prompt_that_fails_costs_itself_and_a_whole_batch_of_them_the_run(task, tmp_path):
    """With all weights trained; what the run had saved before can be exported."""
    data = shutil.copytree(task / "data", tmp_path / "data")
    recipe = Recipe(task, tmp_path / "run", TRAIN=str(data / "train.parquet"))
    log = recipe.run / "train.log"
    process = recipe.start(*SHORT, "data.shuffle=False", "actor_rollout_ref.model.lora_rank=0")
    try:
        wait_for(lambda: log.exists() and "Total training steps" in log.read_text(errors="replace"), process)
        rows = pyarrow.parquet.read_table(data / "train.parquet")["audios"].to_pylist()
        lost = [data / audio for row in (1, 4, 5, 6, 7) for audio in rows[row]]  # one of step 1, all of step 2
        for file in lost:
            file.unlink()
        assert process.wait(timeout=900) == 1
    finally:
        kill(process)
    scalars = recipe.scalars()
    assert scalars["training/failed_prompts"] == {1: 1}
    assert scalars["training/rollout_probs_diff_max"][1] < PARITY
    assert "5 of 8 prompts of the partition 'train' failed, 4 of the 4 in this batch" in log.read_text()
    assert all(f"AudioError: {file}: no such file" in log.read_text() for file in lost)
    assert main(["export", str(recipe.run), "--out", str(tmp_path / "out")]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (task / "model", tmp_path / "out"))
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[name], after[name]) for name in before) > len(before) / 2


def test_two_fsdp_ranks_share_prompts_and_change_nothing(task, tmp_path):
    compared = tmp_path / "compared"
    compared.mkdir()
    recipe = Recipe(task, tmp_path / "run", GPUS="2", COMPARED=str(compared))
    recipe.finish(
        *SHORT,
        "trainer.total_training_steps=2",
        *comparing.FLAGS,
        "actor_rollout_ref.actor.entropy_coeff=0.01",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.actor.use_dynamic_bsz=False",  # as on GPUs
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",  # two to accumulate
        "actor_rollout_ref.actor.checkpoint.save_lora_only=False",
        # Also as on GPUs: several processes of each kind.
        "actor_rollout_ref.rollout.agent.num_workers=2",
        "reward.num_workers=2",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=2",
        "data.dataloader_num_workers=2",
    )
    comparing.assert_the_same(compared, updates=2 * 2 * 2)
    assert len(list(compared.glob("*.jsonl"))) == 2
    assert max(recipe.scalars()["training/rollout_probs_diff_max"].values()) < PARITY
    _assert_only_lora_changed(*(recipe.run / f"checkpoints/global_step_{step}/actor" for step in (1, 2)))
    assert (recipe.run / "adapter" / "adapter_model.safetensors").exists()


def _assert_only_lora_changed(first: Path, last: Path) -> None:
    """Compare two checkpoints that contain all weights, on every rank."""
    for rank in range(2):
        before, after = (
            torch.load(folder / f"model_world_size_2_rank_{rank}.pt", weights_only=False) for folder in (first, last)
        )
        changed = {name for name in before if not torch.equal(_local(before[name]), _local(after[name]))}
        assert changed and changed <= {name for name in before if "lora_" in name}
        assert all("language_model" in name for name in changed)
        assert any("lora_" not in name for name in before)


def _local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _log_prob_difference(model_path, adapter, rollouts) -> float:
    """Largest difference between recorded log-probabilities and those of plain transformers and peft."""
    from peft import PeftModel
    from transformers import Qwen2AudioForConditionalGeneration

    base = Qwen2AudioForConditionalGeneration.from_pretrained(model_path, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter).eval()
    worst = 0.0
    for rollout in rollouts:
        ids = torch.tensor([rollout["prompt"] + rollout["response"]])
        # transformers' own class takes 30 s alone, see verl_leaf/models/whisper.py
        features = {name: F.pad(x, (0, 3000 - x.shape[-1])) for name, x in concatenate(rollout["features"]).items()}
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **features).logits
        logits[..., base.config.audio_token_id] = -torch.inf  # never generated, see verl_leaf/models/placeholder.py
        first = len(rollout["prompt"])
        expected = logits[0, first - 1 : -1].log_softmax(-1).gather(-1, ids[0, first:, None])[:, 0]
        written = torch.tensor(rollout["mask"]).bool()
        worst = max(worst, (expected - torch.tensor(rollout["log_probs"]))[written].abs().max().item())
    return worst
