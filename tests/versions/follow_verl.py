"""For every hook and patch, whether the installed verl still needs it: `follow_verl.sh` installs a verl and calls this.

    python -m tests.versions.follow_verl

`still needed`: it fits, and verl without it has the defect (a patch), or has nothing of the kind (a hook). `solved upstream`:
verl without it does what it is for, so it can go, or what is said after the colon is all that it still does. `guard tripped`:
verl is not as it expects, and has to be read again.
The exit status is 1 where a guard has tripped. Defects are looked for in verl as it is, by running it where that needs no
engines, else in its source.
"""

import contextlib
import importlib
import importlib.metadata
import inspect
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

NEEDED, SOLVED, TRIPPED = "still needed", "solved upstream", "guard tripped"


# ----- patches: does verl have the defect? ---------------------------------------------------------------------------
def advantage_batch() -> bool:
    """An estimator that asks for the batch gets none."""
    from verl.trainer.ppo import core_algos, ray_trainer

    def asks(token_level_rewards, response_mask, batch, **_):
        return token_level_rewards, token_level_rewards

    core_algos.register_adv_est("asks_for_the_batch")(asks)
    try:
        ray_trainer.compute_advantage(one_response(), "asks_for_the_batch", config={})
    except TypeError as error:
        if "batch" not in str(error):
            raise
        return True
    return False


def failed_prompts() -> bool:
    """The sync trainer samples a prompt that failed, and no metric says so."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.v1 import replay_buffer

    from verl_leaf.patches.base import replaced

    tags = {"a": {"is_prompt": True, "status": "failure", "global_steps": 1}, "a_0_0": {"seq_len": 5}}
    queue = SimpleNamespace(kv_list=lambda *_: {"train": tags}, kv_clear=lambda **_: None)
    nothing = OmegaConf.create({})
    with replaced(replay_buffer, "tq", queue):
        buffer = replay_buffer.ReplayBuffer("sync", nothing, 1, "drop", nothing)
        batch, metrics = buffer.sample(1, "train", 1)
    return batch.keys == ["a_0_0"] and not any("fail" in name for name in metrics)


def fetched_columns() -> bool:
    """The trainer does not say which columns the actor is to get."""
    from verl.trainer.ppo.v1 import PPOTrainerSync
    from verl.utils import transferqueue_utils

    is_named = "fields" in inspect.getsource(PPOTrainerSync._update_actor)
    return not is_named and not hasattr(transferqueue_utils, "WORKER_OBJECT_FIELDS")


def granite_mel() -> bool:
    """Granite Speech's features need torchaudio."""
    module = importlib.import_module("transformers.models.granite_speech.feature_extraction_granite_speech")
    return "torchaudio" in inspect.getsource(module)


def groups_together() -> bool:
    """Two ranks get rollouts of both of two prompts, of which one has the long ones."""
    from omegaconf import OmegaConf
    from transfer_queue import KVBatchMeta
    from verl.trainer.ppo.v1 import PPOTrainerSync

    trainer = PPOTrainerSync.__new__(PPOTrainerSync)
    actor = {"ppo_mini_batch_size": 2, "use_dynamic_bsz": False, "ppo_micro_batch_size_per_gpu": 1}
    trainer.config = OmegaConf.create(
        {"actor_rollout_ref": {"model": {"override_config": {}}, "rollout": {"n": 4}, "actor": actor}}
    )
    trainer.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0, 1]})
    trainer.tokenizer = SimpleNamespace(eos_token_id=0)
    trainer._get_required_batch_multiple = lambda ranks: ranks
    keys = [f"{prompt}_{number}_0" for prompt in "ab" for number in range(4)]
    tags = [{"seq_len": length} for length in (400, 410, 420, 430, 10, 11, 12, 13)]
    rows = trainer._balance_batch(KVBatchMeta(partition_id="train", keys=keys, tags=tags), {}).keys
    return len({key[0] for key in rows[:4]}) == 2


def joint_writes() -> bool:
    """An agent loop writes the response that it has at hand, and no others."""
    from verl.trainer.ppo.v1 import agent_loop_tq

    worker = agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class
    return "tq.async_kv_batch_put(" in inspect.getsource(worker._agent_loop_postprocess)


def lora_names() -> bool:
    """verl knows the method of vLLM's mapper by its first name alone."""
    from verl.utils.vllm.utils import VLLMHijack

    source = inspect.getsource(VLLMHijack)
    return "get_unstacked_mapper" in source and "get_rename_mapper" not in source


def lora_on_cpu() -> bool:
    """vLLM on the CPU makes a copy of the adapter for every token."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from vllm.lora.ops.torch_ops import bgmv_shrink

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            self.elements = max(self.elements, result.numel())
            return result

    with Largest() as largest:
        adapter, of_each_token = torch.zeros(1, 8, 64), torch.zeros(100, dtype=torch.long)
        bgmv_shrink(torch.zeros(100, 64), adapter, torch.zeros(100, 8), of_each_token)
    return largest.elements >= 100 * 8 * 64


def model_class() -> bool:
    """The class for a Qwen2-Audio has no language-model head."""
    import transformers
    from verl.utils.model import get_hf_auto_model_class

    config = transformers.Qwen2AudioConfig(architectures=["Qwen2AudioForConditionalGeneration"])
    return get_hf_auto_model_class(config) is transformers.AutoModel


def onednn_weights() -> bool:
    """vLLM on the CPU leaves nothing of a linear weight."""
    import torch
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    layer = torch.nn.Linear(64, 64)  # fp32: for bf16 oneDNN wants more than AVX2
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    return layer.weight.numel() == 0


def polling() -> bool:
    """The replay buffer waits a second or longer, and no setting says how long."""
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    interval = inspect.signature(ReplayBuffer.__init__).parameters["poll_interval"].default
    return interval >= 1 and "poll_interval" not in inspect.getsource(PPOTrainer)


def preflight() -> bool:
    """verl finds nothing wrong with LEAF on one response per prompt."""
    from verl.utils.config import validate_config

    from verl_leaf.config import compose

    sizes = ("actor.ppo_micro_batch_size_per_gpu=1", "rollout.log_prob_micro_batch_size_per_gpu=1", "rollout.n=1")
    overrides = ["algorithm.adv_estimator=leaf", *(f"actor_rollout_ref.{size}" for size in sizes)]
    validate_config(compose("ppo_trainer", overrides), False, False)
    return True


def process_group() -> bool:
    """torch refuses the process group that verl asks for on the CPU."""
    import torch.distributed
    from verl.utils.distributed import initialize_global_process_group_ray

    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, alone, DIST_INIT_METHOD=f"file://{folder}/store"),
    ):
        try:
            initialize_global_process_group_ray()
        except ValueError as error:
            if "Duplicate device type cpu" not in str(error):
                raise
            return True
        torch.distributed.destroy_process_group()
    return False


def ref_offload() -> bool:
    """The reference policy's parameters are asked to be pinned, whatever the device."""
    from verl.workers.engine.fsdp import transformer_impl

    return "CPUOffloadPolicy(pin_memory=True)" in inspect.getsource(transformer_impl.FSDPEngine._build_fsdp_module)


def selected_rows() -> bool:
    """A mini-batch is taken out of a batch by a tensor for each of its rows."""
    from verl.utils import tensordict_utils

    return "tensor.unbind()" in inspect.getsource(tensordict_utils.index_select_tensor_dict)


def speech_processor() -> bool:
    """A Qwen2-Audio's folder has no processor for verl."""
    from verl.utils.tokenizer import hf_processor

    from verl_leaf.models import FAMILIES
    from verl_leaf.models.tiny import write_random

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_random(FAMILIES["qwen2_audio"], Path(folder))
        return hf_processor(folder) is None


def update_counts() -> bool:
    """The metrics keep no count of skipped updates."""
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer, reduce_metrics
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    reduced = reduce_metrics({"actor/grad_norm": [0.5, float("nan")]})
    counts = "skipped" in inspect.getsource(FSDPEngine.optimizer_step)
    counts |= "count_updates" in inspect.getsource(RayPPOTrainer.fit)
    return set(reduced) == {"actor/grad_norm"} and not counts


def on_cpu() -> bool:
    """One of the three that verl and vLLM do not expect of a CPU."""
    return onednn_weights() or process_group() or ref_offload()


def replay_buffer() -> bool:
    """One of the two."""
    return failed_prompts() or polling()


def v1_trainer() -> bool:
    """An estimator that asks for the batch gets it without the responses."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    source = inspect.getsource(PPOTrainer._compute_advantage)
    return '"responses"' not in source and "adv_estimator_fields" not in source


def weight_socket() -> bool:
    """The first jobs of two Ray clusters send weights through the same socket."""
    import ray
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

    config = omega_conf_to_dataclass({"_target_": "verl.workers.config.RolloutConfig", "name": "vllm"})

    def socket(session: str) -> str:
        worker = SimpleNamespace(node=SimpleNamespace(session_name=session))
        context = SimpleNamespace(worker=worker, get_session_name=lambda: session, get_job_id=lambda: "01000000")
        sender = ServerAdapter.__new__(ServerAdapter)
        with (
            patch.object(ray, "get_runtime_context", lambda: context),
            patch.dict(os.environ, RANK="0", RAY_LOCAL_WORLD_SIZE="1"),
        ):
            ServerAdapter.__init__(sender, config, None, None)
        return sender.zmq_handle

    return socket("session_a") == socket("session_b")


# ----- hooks: has verl something of the kind? ------------------------------------------------------------------------
def platform() -> bool:
    """There is no platform for the CPU."""
    from verl.plugin.platform import PlatformRegistry

    return "cpu" not in PlatformRegistry.registered_names()


def vllm_distribution() -> bool:
    """verl knows vLLM by the name of one distribution."""
    import verl

    source = Path(verl.__file__).with_name("third_party") / "vllm/__init__.py"
    return "cpu" not in source.read_text(encoding="utf-8")


def estimators() -> bool:
    """verl lacks one of our estimators."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    from verl_leaf.training.estimator import ESTIMATORS

    return not ESTIMATORS.keys() <= ADV_ESTIMATOR_REGISTRY.keys()


def one_response():
    """A batch of one response with one token, as the trainers hand it to ``compute_advantage``."""
    import numpy as np
    import torch
    from tensordict import TensorDict
    from verl import DataProto

    ones = torch.ones(1, 1)
    names = ("responses", "response_mask", "token_level_rewards", "token_level_scores", "rollout_log_probs")
    batch = TensorDict({name: ones.clone() for name in names}, batch_size=1)
    uid = np.array(["a"], dtype=object)
    return DataProto(batch=batch, non_tensor_batch={"uid": uid}, meta_info={})


DEFECTS: dict[str, Callable[[], bool]] = {
    each.__name__: each
    for each in (
        advantage_batch,
        fetched_columns,
        granite_mel,
        joint_writes,
        lora_names,
        lora_on_cpu,
        model_class,
        on_cpu,
        preflight,
        replay_buffer,
        selected_rows,
        speech_processor,
        update_counts,
        v1_trainer,
        weight_socket,
    )
}
HOOKS: dict[str, Callable[[], bool]] = {
    each.__name__: each for each in (vllm_distribution, platform, estimators, groups_together)
}


def verdict(looks_for: Callable[[], bool], connect: Callable[[], str | None]) -> tuple[str, str]:
    """Return whether one of our patches is needed, or why not: look for its defect first, in verl as it is.

    Args:
        looks_for: the defect.
        connect: what is ours; it may return what it does.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            needed = looks_for()
            does = connect()
    except Exception as error:
        return TRIPPED, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return (NEEDED, "") if needed else (SOLVED, does or "")


def rows() -> Iterator[tuple[str, str, str]]:
    """What it is, the verdict, and why."""
    from tests.versions.verl_api import EXTENDED, complaints
    from verl_leaf.common import vllm_distribution
    from verl_leaf.patches import PATCHES

    vllm_distribution.install_alias()  # or verl finds no vLLM
    for name, looks_for in HOOKS.items():
        yield f"hook {name}", *verdict(looks_for, import_platform if name == "platform" else lambda: None)
    os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")  # as the plugin does on the CPU
    for each in PATCHES:
        name = each.__name__.rpartition(".")[2]
        yield f"patch {name}", *verdict(DEFECTS[name], lambda each=each: apply(each))

    def fit(ours: str) -> None:
        if found := complaints(ours):
            raise TypeError("; ".join(found))

    for ours in EXTENDED:
        yield f"hook {ours.rpartition(':')[2]}", *verdict(lambda: True, lambda ours=ours: fit(ours))
    yield "hook configurations", *verdict(lambda: True, compose_all)
    yield "hook plugin", *verdict(lambda: True, load_as_verl_does)


def import_platform() -> None:
    """Registers ours."""
    importlib.import_module("verl_leaf.plugin.cpu_platform")


def apply(patch_module: ModuleType) -> str:
    """All hooks of a patch, with their guards; what it does where it is active."""
    found = [hook(importlib.import_module(module)) for module, hook in patch_module.HOOKS.items()]
    return "; ".join(dict.fromkeys(status for status in found if status.startswith("active")))


def compose_all() -> None:
    """Our configurations, upon verl's."""
    from verl_leaf.config import compose
    from verl_leaf.models import FAMILIES

    compose("leaf", [])
    for family in FAMILIES:
        for name in ("leaf_speech", "leaf_speech_cpu"):
            compose(name, [f"family={family}"])


def load_as_verl_does() -> None:
    """``import verl`` connects the package."""
    code = (
        "import sys, verl; raise SystemExit(None if 'verl_leaf.plugin.verl' in sys.modules else 'verl did not load it')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "VERL_USE_EXTERNAL_PLUGINS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().split("\n")[-1])


def main() -> int:
    """Print the table; the exit status is 1 where a guard has tripped."""
    os.environ |= {"VERL_USE_EXTERNAL_PLUGINS": "none", "VLLM_LOGGING_LEVEL": "ERROR"}  # verl as it is
    print(f"verl {importlib.metadata.version('verl')}")
    tripped = False
    for what, found, why in rows():
        print(f"{what:32} {found}{': ' * bool(why)}{why}", flush=True)
        tripped |= found == TRIPPED
    return int(tripped)


if __name__ == "__main__":
    sys.exit(main())
