"""FSDP2 keeps a reference policy's parameters in pinned memory, which needs an accelerator.

verl/workers/engine/fsdp/transformer_impl.py _build_fsdp_module (0.9.1) asks for ``CPUOffloadPolicy(pin_memory=True)`` for
every engine that only runs forward: a run with a KL loss and without LoRA. On the CPU platform there is nothing to pin
memory for.
"""

import functools
from types import ModuleType

from verl_leaf.patches.base import expect


def _patch(transformer_impl: ModuleType) -> str:
    from verl.plugin.platform import get_platform

    policy = expect(transformer_impl, "CPUOffloadPolicy", "pin_memory")
    if get_platform().device_name != "cpu":
        return "not needed: there is an accelerator"
    transformer_impl.CPUOffloadPolicy = functools.wraps(policy)(lambda pin_memory: policy(pin_memory=False))
    return "active: no accelerator to pin memory for"


HOOKS = {"verl.workers.engine.fsdp.transformer_impl": _patch}
