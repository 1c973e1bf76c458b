"""The adapter for TRL, in real training of a tiny text model. ``bash tests/adapters/run.sh trl`` runs it."""

import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("trl", minversion="1.16")

from tests.helpers import PROJECT
from verl_leaf.adapters.for_trl import LeafGRPOConfig, LeafGRPOTrainer
from verl_leaf.algorithm import grpo_prefix_advantages, leaf_advantages
from verl_leaf.algorithm.settings import SETTINGS

SAMPLES = 4
COMMON = (
    "--use_cpu --report_to none --save_strategy no --logging_steps 1 --max_steps 2 --learning_rate 0.1 --beta 0 "
    f"--num_generations {SAMPLES} --generation_batch_size 8 --max_completion_length 6 --temperature 1.0 --top_k 2"
).split()


def train(out, *arguments, processes=1):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "tests.adapters.trl_run", "--output_dir", str(out), *COMMON, *arguments]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    steps = [
        [json.loads(line) for line in (out / f"steps_{process}.jsonl").read_text().strip().split("\n")]
        for process in range(processes)
    ]
    return [joined(parts) for parts in zip(*steps, strict=True)], json.loads((out / "run.json").read_text())


def joined(parts):
    """A step of all processes, padded to one width."""
    width = max(len(rows[0]) for part in parts for rows in (part["completion_ids"],))
    names = ("completion_ids", "completion_mask", "advantages", "log_probs")
    step = {
        name: torch.cat(
            [torch.nn.functional.pad(torch.tensor(part[name]), (0, width - len(part[name][0]))) for part in parts]
        )
        for name in names
    }
    rewards = torch.tensor(parts[0]["rewards"])
    assert all(torch.equal(torch.tensor(part["rewards"]).nan_to_num(), rewards.nan_to_num()) for part in parts)
    return {**step, "rewards": rewards.nansum(1)}


def plain(step, **settings):
    group = torch.arange(len(step["rewards"])) // SAMPLES
    return leaf_advantages(
        step["completion_ids"], -step["log_probs"], step["rewards"], step["completion_mask"], group, **settings
    ).advantages


def check_training(record):
    (last,) = [entry for entry in record["log"] if "train_runtime" in entry]
    assert last["step"] == 2 and record["moved"]
    logged = record["log"][0]
    assert {"leaf/fired_share", "leaf/node_size", "leaf/seconds", "forks/early", "forks/early_pairs"} <= logged.keys()
    assert logged["leaf/boundaries_per_prompt"] > 0


def test_every_token_gets_leafs_advantage(tmp_path):
    steps, record = train(tmp_path, "--per_device_train_batch_size", "8", "--fork_budget", "3")
    assert len(steps) == 2
    for step in steps:
        torch.testing.assert_close(step["advantages"], plain(step, fork_budget=3))
    assert any(
        (row[mask.bool()].unique().numel() > 1)
        for row, mask in zip(steps[0]["advantages"], steps[0]["completion_mask"], strict=True)
    )
    check_training(record)


def test_two_processes_get_what_one_gets(tmp_path):
    """Two responses on each: every prompt's four lie on both."""
    arguments = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2")
    steps, record = train(tmp_path, *arguments, processes=2)
    for step in steps:
        assert len(step["rewards"]) == 8
        torch.testing.assert_close(step["advantages"], plain(step))
    check_training(record)


def test_another_estimator(tmp_path):
    steps, record = train(tmp_path, "--per_device_train_batch_size", "8", "--estimator", "grpo_prefix", "--kappa", "2")
    for step in steps:
        group = torch.arange(8) // SAMPLES
        expected = grpo_prefix_advantages(
            step["completion_ids"], step["rewards"], step["completion_mask"], group, kappa=2.0
        )
        torch.testing.assert_close(step["advantages"], expected.advantages)
    assert record["log"][0]["grpo_prefix/kappa"] == 2.0


WRONG = {
    "scale_rewards": "none",
    "multi_objective_aggregation": "normalize_then_sum",
    "loss_type": "vespo",
    "importance_sampling_level": "sequence",
    "off_policy_mask_threshold": 0.5,
}


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS["trl"]])
def test_what_it_does_not_go_with_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"leaf cannot be combined with {name}={WRONG[name]}, which "):
        LeafGRPOConfig(output_dir=str(tmp_path), use_cpu=True, **{name: WRONG[name]})


def test_a_wrong_value_is_named(tmp_path):
    with pytest.raises(ValueError, match="credit='all' is not valid. Valid values are both, global, local"):
        LeafGRPOConfig(output_dir=str(tmp_path), use_cpu=True, credit="all")


def test_trls_own_configuration_is_refused():
    with pytest.raises(ValueError, match="args is NoneType. Give LeafGRPOTrainer a LeafGRPOConfig"):
        LeafGRPOTrainer("no model is loaded")
