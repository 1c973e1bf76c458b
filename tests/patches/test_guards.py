"""Every patch notices when what it patches has changed, and says what it has done."""

import functools
import importlib
import os
import subprocess
import sys

import pytest
import ray
import verl  # noqa: F401  (connects the plugin)

from tests.helpers.changed import changed, without
from tests.helpers.patches import stands_down
from verl_leaf.patches import PATCHES, STATUS, PatchError

RAY_TRAINER, V1_TRAINER = "verl.trainer.ppo.ray_trainer", "verl.trainer.ppo.v1.trainer_base"
REPLAY_BUFFER = "verl.trainer.ppo.v1.replay_buffer"
AGENT_LOOP = "verl.trainer.ppo.v1.agent_loop_tq"
PUNICA = "vllm.lora.punica_wrapper.punica_cpu"
GUARDED = [
    ("advantage_batch", RAY_TRAINER, "compute_advantage"),
    ("advantage_batch", RAY_TRAINER, "compute_data_metrics"),
    ("v1_trainer", V1_TRAINER, "PPOTrainer._compute_advantage"),
    ("replay_buffer", REPLAY_BUFFER, "ReplayBuffer._select_prompt_uids"),
    ("replay_buffer", REPLAY_BUFFER, "ReplayBuffer.sample"),
    ("replay_buffer", REPLAY_BUFFER, "ReplayBufferAsync.sample"),
    ("fetched_columns", "verl.utils.transferqueue_utils", "async_kv_batch_meta2batch_meta"),
    ("granite_mel", "transformers.models.granite_speech.feature_extraction_granite_speech", "requires_backends"),
    ("v1_trainer", V1_TRAINER, "PPOTrainer._balance_batch"),
    ("v1_trainer", V1_TRAINER, "get_seqlen_balanced_partitions"),
    ("joint_writes", AGENT_LOOP, "list_of_dict_to_tensordict"),
    ("lora_on_cpu", PUNICA, "sgmv_shrink"),
    ("lora_on_cpu", PUNICA, "sgmv_expand_slice"),
    ("model_class", "verl.utils.model", "get_hf_auto_model_class"),
    ("replay_buffer", REPLAY_BUFFER, "ReplayBuffer._sync_metadata_from_transfer_queue"),
    ("replay_buffer", REPLAY_BUFFER, "ReplayBuffer._wait_for_next_poll"),
    ("preflight", "verl.utils.config", "validate_config"),
    ("selected_rows", "verl.utils.tensordict_utils", "index_select_tensor_dict"),
    ("on_cpu", "verl.utils.distributed", "initialize_global_process_group_ray"),
    ("on_cpu", "verl.workers.engine.fsdp.transformer_impl", "CPUOffloadPolicy"),
    ("speech_processor", "verl.utils.tokenizer.tokenizer", "hf_processor"),
    ("update_counts", RAY_TRAINER, "reduce_metrics"),
    ("v1_trainer", V1_TRAINER, "PPOTrainer._update_actor"),
    ("v1_trainer", V1_TRAINER, "PPOTrainer.step"),
    ("v1_trainer", V1_TRAINER, "reduce_metrics"),
]
GONE = [
    ("joint_writes", AGENT_LOOP, "tq"),
    ("lora_on_cpu", PUNICA, "bgmv_shrink"),
    ("lora_on_cpu", PUNICA, "bgmv_expand_slice"),
    ("lora_names", "vllm.model_executor.models.utils", "WeightsMapper"),
    ("on_cpu", "vllm._custom_ops", "_supports_onednn"),
    ("update_counts", RAY_TRAINER, "reduce_metrics"),
    ("weight_socket", "verl.workers.rollout.vllm_rollout.vllm_rollout", "ServerAdapter"),
    ("weight_socket", "verl.workers.rollout.vllm_rollout.vllm_async_server", "vLLMHttpServer"),
]


class Writer:
    async def _agent_loop_postprocess(self, tq, output):
        await tq.async_kv_put(output)


def hook(patch, module):
    return importlib.import_module(f"verl_leaf.patches.{patch}").HOOKS[module]


@pytest.mark.parametrize("patch, module, path", GUARDED)
def test_another_signature_stops_the_patch(patch, module, path):
    real = importlib.import_module(module)
    if stands_down(patch):
        pytest.skip(f"{patch} is solved upstream")
    with pytest.raises(
        PatchError, match=rf"{module}.{path} has the parameters \(.*one_more\), but the patch was written for "
    ):
        hook(patch, module)(changed(real, path))


@pytest.mark.parametrize("patch, module, name", GONE)
def test_what_is_gone_stops_the_patch(patch, module, name):
    real = importlib.import_module(module)
    with pytest.raises(PatchError, match=rf"{module} no longer has .*{name}.*\. Install the tested versions"):
        hook(patch, module)(without(real, name))


@pytest.mark.parametrize("patch, module", [("advantage_batch", RAY_TRAINER), ("v1_trainer", V1_TRAINER)])
def test_a_function_that_has_moved_stops_the_patch(patch, module, monkeypatch):
    """verl's pull request 7237 moves it like this; both trainers still have it under its name."""
    utils = importlib.import_module("verl.trainer.ppo.v1.utils")
    real = importlib.import_module(module)
    moved = functools.wraps(utils.compute_advantage)(lambda *args, **kwargs: None)
    moved.__module__ = "verl.trainer.ppo.trainer_utils"
    copy = without(real, "compute_advantage")
    copy.compute_advantage = moved
    monkeypatch.setattr(utils, "compute_advantage", moved)
    with pytest.raises(
        PatchError, match=r"defined in verl.trainer.ppo.trainer_utils .* HOOKS of .*/advantage_batch.py"
    ):
        hook(patch, module)(copy)


def test_a_replay_buffer_without_an_interval_stops_the_patch():
    real = importlib.import_module(REPLAY_BUFFER)
    as_it_was = without(real, "ReplayBuffer", "ReplayBufferAsync")
    for name in ("ReplayBuffer", "ReplayBufferAsync"):
        _, stock = vars(real)[name].__bases__
        setattr(as_it_was, name, stock)
    with pytest.raises(PatchError, match=r"ReplayBuffer no longer has a parameter poll_interval"):
        hook("replay_buffer", REPLAY_BUFFER)(changed(as_it_was, "ReplayBuffer.__init__", drop="poll_interval"))
    assert hook("replay_buffer", REPLAY_BUFFER)(as_it_was) == STATUS["replay_buffer", REPLAY_BUFFER]


def test_an_agent_loop_that_writes_otherwise_stops_the_patch():
    real = importlib.import_module(AGENT_LOOP)
    other = without(real, "AgentLoopWorkerTQ")
    other.AgentLoopWorkerTQ = ray.remote(Writer)
    with pytest.raises(PatchError, match=r"AgentLoopWorkerTQ writes its rows in another way\. Install the tested"):
        hook("joint_writes", AGENT_LOOP)(other)


def test_every_patch_is_guarded_here_and_tells_its_status():
    names = {patch.__name__.rpartition(".")[2] for patch in PATCHES}
    assert {patch for patch, *_ in (*GUARDED, *GONE)} == names == {patch for patch, _ in STATUS}
    for patch in PATCHES:
        for module in patch.HOOKS:
            importlib.import_module(module)
    assert {status.partition(":")[0] for status in STATUS.values()} <= {"active", "not needed"}


def test_an_unused_patch_waits():
    code = "import verl_leaf.patches as p; p.install(); print(*(f'{name}={s}' for (name, _), s in p.STATUS.items()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "weight_socket=waiting: the module is not imported" in done.stdout


@pytest.mark.slow
def test_the_doctor_names_a_patch_that_does_not_fit():
    code = (
        "import verl.utils.metric as metric; metric.reduce_metrics = lambda other: other\n"
        "from verl_leaf.cli import main; raise SystemExit(main(['doctor']))"
    )
    environment = {**os.environ, "COLUMNS": "300"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert (
        f"update_counts, {RAY_TRAINER}: broken: {RAY_TRAINER}.reduce_metrics has the parameters (other)" in done.stdout
    )
    assert (
        f"replay_buffer, {REPLAY_BUFFER}: {STATUS['replay_buffer', REPLAY_BUFFER].partition(':')[0]}: " in done.stdout
    )
