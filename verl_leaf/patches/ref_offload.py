"""FSDP2 keeps a reference policy's parameters in pinned memory, which needs an accelerator.

verl/workers/engine/fsdp/transformer_impl.py _build_fsdp_module (0.9.1) asks for ``CPUOffloadPolicy(pin_memory=True)`` for
every engine that only runs forward: a run with a KL loss and without LoRA. On the CPU platform there is nothing to pin
memory for.
"""

import functools

import wrapt

from verl_leaf.patches.base import STATUS, expect_parameters


def install() -> None:
    wrapt.when_imported("verl.workers.engine.fsdp.transformer_impl")(_patch)


def _patch(transformer_impl) -> None:
    from verl.plugin.platform import get_platform

    if get_platform().device_name != "cpu":
        STATUS["ref_offload"] = "not needed: there is an accelerator"
        return
    policy = transformer_impl.CPUOffloadPolicy
    expect_parameters(policy, "pin_memory")
    transformer_impl.CPUOffloadPolicy = functools.wraps(policy)(lambda pin_memory: policy(pin_memory=False))
    STATUS["ref_offload"] = "active: no accelerator to pin memory for"
