"""Changes to the libraries underneath that no configuration, registry or subclass could replace. One file each.

README.md lists them, and says how to add one. ``STATUS`` tells what was done in this process, for ``verl-leaf doctor``.
"""

from verl_leaf.patches import (
    advantage_batch,
    failed_prompts,
    fetched_columns,
    granite_mel,
    groups_together,
    joint_writes,
    lora_on_cpu,
    model_class,
    onednn_weights,
    polling,
    preflight,
    process_group,
    ref_offload,
    speech_processor,
    update_counts,
    weight_socket,
)
from verl_leaf.patches.base import STATUS, PatchError, attach

__all__ = ["PATCHES", "STATUS", "PatchError", "install"]

PATCHES = (
    advantage_batch,
    failed_prompts,
    fetched_columns,
    granite_mel,
    groups_together,
    joint_writes,
    lora_on_cpu,
    model_class,
    onednn_weights,
    polling,
    preflight,
    process_group,
    ref_offload,
    speech_processor,
    update_counts,
    weight_socket,
)


def install() -> None:
    """Attach all patches; each takes effect when the module that it patches is imported."""
    for patch in PATCHES:
        attach(patch)
