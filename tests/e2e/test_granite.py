"""Granite Speech through the same recipe: clips of different length in one micro-batch, BatchNorm and all."""

import subprocess
import sys
from pathlib import Path

import pytest
from recipe import Recipe

pytestmark = pytest.mark.e2e

PARITY = 1e-4
FLAGS = [
    "trainer.total_training_steps=2",
    "trainer.save_freq=2",
    "trainer.test_freq=-1",
    "trainer.val_before_train=False",
    "actor_rollout_ref.model.override_config.attn_implementation=eager",
    "actor_rollout_ref.model.exclude_modules='.*(encoder|projector).*'",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",  # the whole batch: one update a step
]


@pytest.fixture(scope="module")
def granite(task, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("granite")
    builder = Path(__file__).parents[1] / "models/tiny_granite.py"
    subprocess.run([sys.executable, builder, task / "model", folder], check=True)
    return folder


def test_rollout_actor_and_reference_agree(task, granite, tmp_path):
    recipe = Recipe(task, tmp_path, MODEL=str(granite))
    recipe.finish(*FLAGS)
    scalars = recipe.scalars()
    assert sorted(scalars["training/rollout_probs_diff_max"]) == [1, 2]
    assert max(scalars["training/rollout_probs_diff_max"].values()) < PARITY
    # In training mode, BatchNorm and dropout would tell the updated model from its own reference.
    assert scalars["actor/kl_loss"][1] == pytest.approx(0, abs=1e-9)
    assert scalars["actor/grad_norm"][1] > 0 and scalars["actor/kl_loss"][2] > 0
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_other_audio_at_the_actor_is_seen(task, granite, tmp_path):
    recipe = Recipe(task, tmp_path, MODEL=str(granite))
    recipe.finish(
        *FLAGS,
        "trainer.total_training_steps=1",
        "++actor_rollout_ref.rollout.agent.agent_loop_manager_class=agent_loops.OtherAudioManager",
    )
    assert recipe.scalars()["training/rollout_probs_diff_max"][1] > 10 * PARITY
