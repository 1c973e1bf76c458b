"""The other families through their recipes: clips of different length in one micro-batch, warm restarts, export."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import PROJECT, comparing
from tests.helpers.recipe import Recipe
from verl_leaf.cli import main
from verl_leaf.runs.compare import read_runs

pytestmark = pytest.mark.e2e

PARITY = 1e-4
FLAGS = [
    "actor_rollout_ref.actor.use_dynamic_bsz=False",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
    "trainer.save_freq=2",
    "trainer.test_freq=-1",
    "trainer.val_before_train=False",
    "reward.custom_reward_function.name=chrf",  # a random model gets some of it
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",  # the whole batch: one update a step
]
AS_ON_A_GPU = [
    "actor_rollout_ref.model.enable_gradient_checkpointing=True",
    "actor_rollout_ref.rollout.dtype=bfloat16",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype=bf16",
]
RESTARTED = [*FLAGS, *comparing.FLAGS, "trainer.total_training_steps=1"]


@pytest.mark.thorough
def test_granite_rollout_actor_and_reference_agree(task, models, tmp_path):
    recipe = Recipe(task, tmp_path, "granite4.0_1b_leaf", models("granite_speech"), COMPARED=str(tmp_path))
    recipe.finish(*FLAGS, *comparing.FLAGS, "trainer.total_training_steps=2")
    comparing.assert_the_same(tmp_path, updates=2)
    scalars = recipe.scalars()
    assert sorted(scalars["training/rollout_probs_diff_max"]) == [1, 2]
    assert max(scalars["training/rollout_probs_diff_max"].values()) < PARITY
    # In training mode, BatchNorm and dropout would tell the updated model from its own reference.
    assert scalars["actor/kl_loss"][1] == pytest.approx(0, abs=1e-9)
    assert scalars["actor/grad_norm"][1] > 0 and scalars["actor/kl_loss"][2] > 0


@pytest.mark.thorough
def test_other_audio_at_the_actor_is_seen_in_granite(task, models, tmp_path):
    recipe = Recipe(task, tmp_path, "granite4.0_1b_leaf", models("granite_speech"))
    recipe.finish(
        *FLAGS,
        "trainer.total_training_steps=1",
        "actor_rollout_ref.rollout.agent.agent_loop_manager_class=tests.helpers.agent_loops.OtherAudioManager",
    )
    assert recipe.scalars()["training/rollout_probs_diff_max"][1] > 10 * PARITY


OMNI = [pytest.param("omni", marks=pytest.mark.thorough), "omni3"]


@pytest.fixture(scope="module")
def omni(task, models, tmp_path_factory):
    return on_two_ranks("qwen2.5omni_3b_leaf", task, models("qwen2_5_omni"), tmp_path_factory.mktemp("omni"))


@pytest.fixture(scope="module")
def omni3(task, models, tmp_path_factory):
    return on_two_ranks("qwen3omni_30b_leaf", task, models("qwen3_omni_moe"), tmp_path_factory.mktemp("omni3"))


def on_two_ranks(recipe, task, model, run):
    """Two steps."""
    recipe = Recipe(task, run, recipe, model, GPUS="2", COMPARED=str(run))
    half = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16"  # a rank's share of the batch
    recipe.finish(*FLAGS, half, *comparing.FLAGS, "trainer.save_freq=1", "trainer.total_training_steps=2")
    return recipe


@pytest.mark.parametrize("finished", OMNI)
def test_omni_rollout_actor_and_reference_agree(request, finished):
    scalars = request.getfixturevalue(finished).scalars()
    assert sorted(scalars["training/rollout_probs_diff_max"]) == [1, 2]
    assert max(scalars["training/rollout_probs_diff_max"].values()) < PARITY
    assert scalars["actor/kl_loss"][1] == pytest.approx(0, abs=1e-9)
    assert scalars["actor/grad_norm"][1] > 0 and scalars["actor/kl_loss"][2] > 0


@pytest.mark.parametrize("finished", OMNI)
def test_sharing_prompts_changes_nothing_in_omni(request, finished):
    comparing.assert_the_same(request.getfixturevalue(finished).run, updates=2 * 2)


@pytest.mark.parametrize("finished", OMNI)
def test_omni_trains_and_exports_the_thinkers_language_model(request, finished):
    """Under the hub's names. That the rollouts of step 2 agree with the actor shows that it reaches vLLM."""
    run = request.getfixturevalue(finished).run
    first, last = (
        load_file(run / f"checkpoints/global_step_{step}/adapter/adapter_model.safetensors") for step in (1, 2)
    )
    assert all(name.startswith("base_model.model.thinker.model.layers.") for name in last)
    assert any(not torch.equal(first[name], last[name]) for name in last)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "recipe, family", [("qwen2.5omni_3b_leaf", "qwen2_5_omni"), ("qwen3omni_30b_leaf", "qwen3_omni_moe")]
)
def test_other_audio_at_the_actor_is_seen_in_omni(task, models, tmp_path, recipe, family):
    recipe = Recipe(task, tmp_path, recipe, models(family))
    recipe.finish(
        *FLAGS,
        "trainer.total_training_steps=1",
        "actor_rollout_ref.rollout.agent.agent_loop_manager_class=tests.helpers.agent_loops.OtherAudioManager",
    )
    assert recipe.scalars()["training/rollout_probs_diff_max"][1] > 10 * PARITY


@pytest.mark.parametrize(
    "recipe, family",
    [
        ("qwen2audio_leaf", "qwen2_audio"),
        pytest.param("granite4.0_1b_leaf", "granite_speech", marks=pytest.mark.thorough),
        pytest.param("audioflamingo3_leaf", "audioflamingo3", marks=pytest.mark.thorough),
        pytest.param("qwen2.5omni_3b_leaf", "qwen2_5_omni", marks=pytest.mark.thorough),
        pytest.param("qwen3omni_30b_leaf", "qwen3_omni_moe", marks=pytest.mark.thorough),
    ],
)
def test_bf16_and_checkpointing_as_on_a_gpu(task, models, tmp_path, recipe, family):
    """Under mixed precision and with activations computed again, vLLM in bf16; the rollout's rounding is then not the actor's."""
    run = Recipe(task, tmp_path, recipe, models(family))
    run.finish(*FLAGS, *AS_ON_A_GPU, "trainer.total_training_steps=1", "trainer.save_freq=-1")
    scalars = run.scalars()
    assert scalars["training/rollout_probs_diff_max"][1] < 0.02
    assert 0 < scalars["actor/grad_norm"][1] < 100
    assert scalars["actor/kl_loss"][1] == pytest.approx(0, abs=1e-4)
    assert scalars["training/skipped_updates/sum"][1] == 0


@pytest.fixture(scope="module")
def restarted(task, models, tmp_path_factory):
    """Audio Flamingo 3, two epochs of one step."""
    run = tmp_path_factory.mktemp("restarted")
    recipe = Recipe(task, run, "audioflamingo3_leaf", models("audioflamingo3"), EPOCHS="2", COMPARED=str(run))
    recipe.finish(*RESTARTED)
    return recipe


def test_sharing_prompts_changes_nothing_in_audio_flamingo(restarted):
    comparing.assert_the_same(restarted.run, updates=2)


def test_an_epoch_is_a_warm_restart(restarted):
    first, second = (restarted.scalars(f"epoch_{number}") for number in (1, 2))
    for scalars in (first, second):
        assert scalars["training/rollout_probs_diff_max"][1] < PARITY
    # The reference is the base model in both; the second epoch starts with the adapter of the first.
    assert first["actor/kl_loss"][1] == pytest.approx(0, abs=1e-9)
    assert second["actor/kl_loss"][1] > 1e-4
    assert second["actor/lr"] == first["actor/lr"]
    summary = json.loads((restarted.run / "summary.json").read_text())
    assert (summary["epochs"], summary["steps"], summary["rollouts"]) == (2, 2, 64)
    assert read_runs([restarted.run])[0].scalars["training/global_step"].keys() == {1, 2}
    last, whole = (load_file(restarted.run / part / "adapter/adapter_model.safetensors") for part in ("epoch_2", "."))
    assert last.keys() == whole.keys() and all(torch.equal(last[name], whole[name]) for name in last)


def test_the_same_command_leaves_finished_epochs_alone(restarted):
    before = {file: file.stat().st_mtime for file in restarted.run.rglob("train.log")}
    restarted.finish(*RESTARTED)
    assert {file: file.stat().st_mtime for file in restarted.run.rglob("train.log")} == before and len(before) == 2


@pytest.mark.parametrize(
    "finished, placeholder",
    [
        ("restarted", "<sound>"),
        pytest.param("omni", "<|audio_bos|><|AUDIO|><|audio_eos|>", marks=pytest.mark.thorough),
        pytest.param(
            "omni3",
            "<|audio_start|><|audio_pad|><|audio_end|>",
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason="vLLM alone computes experts with LoRA by Triton, on GPUs only"
            ),
        ),
    ],
)
def test_exports_load_in_vllm_without_our_plugin(request, task, tmp_path, finished, placeholder):
    recipe = request.getfixturevalue(finished)
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    assert main(["export", str(recipe.run), "--out", str(adapter)]) == 0
    assert main(["export", str(recipe.run), "--out", str(merged), "--merged"]) == 0
    audio = next((task / "data").rglob("*.wav"), None) or next((task / "data").rglob("*.flac"))
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.helpers.stock_vllm",
            recipe.model,
            adapter,
            merged,
            f"{placeholder}Translate into German.",
            audio,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        cwd=PROJECT,
    )
    assert run.returncode == 0, run.stderr[-5000:]
    with_adapter, of_merged, of_base = json.loads(run.stdout.splitlines()[-1])
    assert [token for token, _ in with_adapter] == [token for token, _ in of_merged]
    adapter_values, merged_values, base_values = (
        torch.tensor([value for _, value in answer]) for answer in (with_adapter, of_merged, of_base)
    )
    torch.testing.assert_close(adapter_values, merged_values, rtol=0, atol=1e-3)
    assert not torch.allclose(base_values, merged_values, rtol=0, atol=1e-3)
