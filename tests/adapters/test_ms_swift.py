"""The adapter for ms-swift, through its own command: a tiny Qwen2-Audio, LoRA, real audio.

``bash tests/adapters/run.sh ms_swift`` runs it.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("swift")

import pyarrow.parquet

import verl_leaf.adapters
from tests.helpers import PROJECT
from verl_leaf.adapters.for_ms_swift import LeafGRPOConfig, LeafGRPOTrainer
from verl_leaf.algorithm import grpo_prefix_advantages, leaf_advantages
from verl_leaf.algorithm.settings import SETTINGS

SAMPLES = 4
PLUGIN = str(Path(verl_leaf.adapters.__path__[0], "for_ms_swift.py"))  # as the README has it
COMMON = (
    # With transformers 5 all-linear finds no layer: it looks for language_model, which is below model now.
    "rlhf --rlhf_type grpo --model_type qwen2_audio --template qwen2_audio --tuner_type lora --lora_rank 4 "
    "--target_regex .*language_model.*(q_proj|v_proj) --torch_dtype float32 --use_cpu true --beta 0 --split_dataset_ratio 0 "
    f"--reward_funcs letters --num_generations {SAMPLES} --max_completion_length 8 --temperature 1.0 --top_k 2 "
    "--max_steps 2 --logging_steps 1 --learning_rate 1e-2 --report_to none"
).split()


@pytest.fixture(scope="module")
def data(task, tmp_path_factory) -> Path:
    """The spoken task as ms-swift has it; every other prompt is longer."""
    folder = tmp_path_factory.mktemp("data")
    rows = pyarrow.parquet.read_table(task / "data/train.parquet").to_pylist()
    with open(folder / "train.jsonl", "w") as file:
        for number, row in enumerate(rows):
            text = "<audio>Translate into German." if number % 2 else "<audio>What was said? Say it in German."
            audios = [str(task / "data" / path) for path in row["audios"]]
            messages = [{"role": "user", "content": text}]
            file.write(
                json.dumps({"messages": messages, "audios": audios, "solution": row["reward_model"]["ground_truth"]})
                + "\n"
            )
    return folder / "train.jsonl"


def train(task, data, out, *arguments, processes=1, **environment):
    """Steps of all processes, and what was logged."""
    command = [str(Path(sys.executable).parent / "swift"), *COMMON, "--model", str(task / "model")]
    command += ["--dataset", str(data), "--output_dir", str(out), *arguments]
    command += ["--external_plugins", PLUGIN, str(PROJECT / "tests/adapters/ms_swift_recording.py")]
    if processes > 1:
        environment["NPROC_PER_NODE"] = str(processes)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    environment |= {"RECORD": str(out / "steps"), "USE_HF": "1", "PYTHONPATH": str(PROJECT)}
    run = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    files = [out / f"steps_{process}.jsonl" for process in range(processes)]
    batches = [[json.loads(line) for line in file.read_text().strip().split("\n")] for file in files]
    (log,) = out.rglob("logging.jsonl")
    (adapter,) = out.rglob("checkpoint-2/adapter_model.safetensors")
    assert adapter.stat().st_size > 0
    return batches, [json.loads(line) for line in log.read_text().strip().split("\n")]


def check_steps(batches, per_step, expected):
    """Every token of every step has the advantage that ``expected`` computes of the step as a whole."""
    for first in range(0, len(batches[0]), per_step):
        rows = [row for process in batches for batch in process[first : first + per_step] for row in rows_of(batch)]
        width = max(len(row["tokens"]) for row in rows)
        padded = {
            name: torch.tensor([row[name] + [0] * (width - len(row[name])) for row in rows])
            for name in ("tokens", "log_probs", "advantages")
        }
        mask = torch.arange(width) < torch.tensor([len(row["tokens"]) for row in rows])[:, None]
        rewards = torch.tensor(batches[0][first]["rewards"])[:, 0]
        group = torch.arange(len(rows)) // SAMPLES
        assert len(rows) == len(rewards) == 8
        torch.testing.assert_close(
            padded["advantages"], expected(padded["tokens"], -padded["log_probs"], rewards, mask, group)
        )


def rows_of(batch):
    """Each response by itself, without what stands before and after it."""
    assert batch["audio"]
    for row, mask in enumerate(batch["mask"]):
        first, last = mask.index(1), len(mask) - mask[::-1].index(1)
        assert not any(batch["advantages"][row][:first] + batch["advantages"][row][last:])
        yield {name: batch[name][row][first:last] for name in ("tokens", "log_probs", "advantages")}


def test_two_processes_get_what_one_gets(task, data, tmp_path):
    """Two responses on each at a time: every prompt's four lie on both."""
    batches, log = train(
        task,
        data,
        tmp_path,
        *("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"),
        processes=2,
        LEAF_FORK_BUDGET="3",
    )
    check_steps(batches, 2, lambda *of_step: leaf_advantages(*of_step, fork_budget=3).advantages)
    names = {"leaf/fired_share", "leaf/node_size", "leaf/seconds", "forks/early", "forks/early_pairs"}
    assert names <= log[0].keys() and float(log[0]["leaf/boundaries_per_prompt"]) > 0
    assert float(log[0]["grad_norm"]) > 0


def test_another_estimator_by_model_kwargs(task, data, tmp_path):
    batches, log = train(
        task,
        data,
        tmp_path,
        *("--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"),
        *("--model_kwargs", '{"leaf_estimator": "grpo_prefix", "leaf_kappa": 2}'),
    )

    def expected(tokens, _, rewards, mask, group):
        return grpo_prefix_advantages(tokens, rewards, mask, group, kappa=2.0).advantages

    check_steps(batches, 1, expected)
    assert float(log[0]["grpo_prefix/kappa"]) == 2.0


WRONG = {
    "advantage_estimator": "rloo",
    "kl_in_reward": True,
    "scale_rewards": "batch",
    "importance_sampling_level": "sequence",
    "loss_type": "real",
    "off_policy_sequence_mask_delta": 0.1,
    "use_liger_kernel": True,
    "advantage_reweight": "rlsd",
    "multi_turn_scheduler": "math_tip_trick",
}


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS["ms_swift"]])
def test_what_it_does_not_go_with_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"leaf cannot be combined with {name}={WRONG[name]}, which "):
        LeafGRPOConfig(output_dir=str(tmp_path), use_cpu=True, **{name: WRONG[name]})


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("LEAF_FORK_BUDGE", "2", "LEAF_FORK_BUDGE=2: verl-leaf has no such setting. The settings are LEAF_ESTIMATOR, "),
        ("LEAF_FORK_BUDGET", "two", "LEAF_FORK_BUDGET=two: set it to an integer"),
        ("LEAF_CREDIT", "all", "credit='all' is not valid. Valid values are both, global, local"),
    ],
)
def test_a_wrong_variable_is_named(name, value, message, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=re.escape(message)):
        LeafGRPOConfig(output_dir=str(tmp_path), use_cpu=True)


class Template:
    padding_free = True
    sequence_parallel_size = 1


def test_rows_of_several_responses_are_refused():
    with pytest.raises(ValueError, match="padding_free"):
        LeafGRPOTrainer(template=Template())
