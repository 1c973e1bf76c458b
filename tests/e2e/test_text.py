"""Any verl recipe becomes LEAF: the text example in verl's other trainers and with its other options."""

import itertools
import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import PROJECT, comparing
from verl_leaf.runs.summary import read_scalars

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def text_task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("next_letter")
    prepare = [sys.executable, "-m", "examples.next_letter.prepare", "--out", folder, "--steps", "50"]
    subprocess.run(prepare, cwd=PROJECT, check=True)
    return folder


def run(task, folder, *overrides: str) -> dict[str, dict[int, float]]:
    """Two steps of ``examples/next_letter/run.sh``, and the metrics they logged."""
    short = ("trainer.total_training_steps=2", "trainer.test_freq=-1", "trainer.val_before_train=False")
    (folder / "metrics").mkdir()
    with open(folder / "log", "w") as log:
        subprocess.run(
            ["bash", PROJECT / "examples/next_letter/run.sh", *short, "trainer.logger=[console,file]", *overrides],
            env={
                **os.environ,
                "TASK": str(task),
                "VERL_FILE_LOGGER_PATH": str(folder / "metrics/0.jsonl"),
                "PYTHONPATH": str(PROJECT),
                "COMPARED": str(folder),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=True,
        )
    return read_scalars(folder / "metrics")


def leaf_worked(metrics) -> bool:
    return sorted(metrics["leaf/boundaries_per_prompt"]) == [1, 2] and min(metrics["leaf/node_size"].values()) >= 2


def test_colocated_asynchronous_trainer_with_a_reference_policy_and_rollout_correction(text_task, tmp_path):
    metrics = run(
        text_task,
        tmp_path,
        "trainer.v1.trainer_mode=colocate_async",
        "actor_rollout_ref.actor.use_kl_loss=True",
        "algorithm.rollout_correction.rollout_is=token",
        "algorithm.rollout_correction.rollout_rs=seq_mean_k1",
        "algorithm.rollout_correction.rollout_rs_threshold=0.5_2.0",
        *comparing.FLAGS,
        comparing.FLAG,
        "actor_rollout_ref.actor.use_dynamic_bsz=True",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=512",
    )
    comparing.assert_the_same(tmp_path, updates=4)
    assert leaf_worked(metrics)
    assert metrics["training/rollout_probs_diff_max"][1] < 1e-4
    assert len(metrics["actor/kl_loss"]) == 2
    assert any(name.startswith("rollout_corr/") for name in metrics)


@pytest.mark.thorough
def test_legacy_trainer(text_task, tmp_path):
    metrics = run(text_task, tmp_path, "trainer.use_v1=False", *comparing.FLAGS, comparing.FLAG)
    comparing.assert_the_same(tmp_path, updates=4)
    assert leaf_worked(metrics)
    assert max(metrics["training/rollout_probs_diff_max"].values()) < 1e-4


@pytest.mark.quick
def test_verls_tool_loop_with_filtered_groups_and_traces(text_task, tmp_path):
    """Several turns: the tokens of the tool count in prefixes, and are neither trained on nor a boundary."""
    model = tmp_path / "model"
    subprocess.run([sys.executable, "-m", "tests.helpers.letter_task", model], cwd=PROJECT, check=True)
    metrics = run(
        text_task,
        tmp_path,
        f"actor_rollout_ref.model.path={model}",
        "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent",
        "actor_rollout_ref.rollout.multi_turn.enable=True",
        "actor_rollout_ref.rollout.multi_turn.function_tool_path=tests/helpers/letter_tool.py",
        "reward.custom_reward_function.path=tests/helpers/letter_task.py",
        "data.max_response_length=24",
        "actor_rollout_ref.rollout.max_model_len=96",
        "algorithm.filter_groups.enable=True",
        "algorithm.filter_groups.metric=reward",
        f"algorithm.leaf.trace_dir={tmp_path / 'traces'}",
        "algorithm.leaf.trace_every=2",
        *comparing.FLAGS,
        comparing.FLAG,
    )
    comparing.assert_the_same(tmp_path, updates=4)
    assert leaf_worked(metrics)
    assert metrics["training/rollout_probs_diff_max"][1] < 1e-4
    assert set(metrics["leaf/no_signal_share"].values()) == {0}  # that is what the filter is for
    (file,) = (tmp_path / "traces").iterdir()
    head, *prompts = map(json.loads, file.read_text().strip().split("\n"))
    assert (head["step"], len(prompts)) == (2, 8)
    asking = 0
    for prompt in prompts:
        assert len(prompt["responses"]) == 8 and prompt["data_source"] == "next_letter"
        rewards = [response["reward"] for response in prompt["responses"]]
        assert prompt["root_value"] == pytest.approx(sum(rewards) / 8)
        for boundary in prompt["boundaries"]:
            assert prompt["responses"][boundary["response"]]["policy"][boundary["position"]] == 1
        for response in prompt["responses"]:
            # What the policy writes and what the tool writes take turns: <|im_start|> tool LETTER <|im_end|> <|im_start|> assistant
            turns = [
                (wrote, [piece for _, piece in turn])
                for wrote, turn in itertools.groupby(
                    zip(response["policy"], response["pieces"], strict=True), lambda pair: pair[0]
                )
            ]
            assert turns[0][0] == turns[-1][0] == 1
            for (_, call), (_, reply) in zip(turns[::2], turns[1::2], strict=False):
                if asked := re.search('"letter":"([a-y])"', "".join(call)):  # a sampled call may be wrong
                    assert len(reply) == 6 and "".join(reply).split()[1:3] == ["tool", chr(ord(asked[1]) + 1)]
                    asking += 1
            text = re.sub(r"<\|\w+\|>", " ", "".join(response["pieces"]))  # verl drops special tokens too
            given = text.rpartition("assistant")[2].split()
            right = prompt["reference"].split()
            share = sum(a == b for a, b in zip(given, right, strict=False)) / max(len(given), len(right))
            assert response["reward"] == pytest.approx(share)
            assert response["spans"][-1]["end"] == len(response["tokens"])
    assert asking > 0


def test_text_loads_nothing_of_speech():
    code = (
        "import sys, verl.trainer.main_ppo, verl.trainer.ppo.v1, verl_leaf.training.traces.writer\n"
        "names = ('verl_leaf.speech', 'verl_leaf.models.qwen2_audio.', 'soxr', 'sacrebleu')\n"
        "print('speech:', [name for name in sys.modules if name.startswith(names)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "speech: []" in done.stdout
