"""Changes to the libraries underneath that no configuration, registry or subclass could replace. One file each.

README.md lists them, and says how to add one. ``STATUS`` tells what was done in this process, for ``verl-leaf doctor``.
"""

from verl_leaf.patches import (
    advantage_batch,
    fetched_columns,
    granite_mel,
    joint_writes,
    lora_on_cpu,
    model_class,
    on_cpu,
    preflight,
    replay_buffer,
    speech_processor,
    update_counts,
    v1_trainer,
    weight_socket,
)
from verl_leaf.patches.base import STATUS, PatchError, attach

__all__ = ["PATCHES", "STATUS", "PatchError", "install"]

PATCHES = (
    advantage_batch,
    fetched_columns,
    granite_mel,
    joint_writes,
    lora_on_cpu,
    model_class,
    on_cpu,
    preflight,
    replay_buffer,
    speech_processor,
    update_counts,
    v1_trainer,
    weight_socket,
)


def install() -> None:
    """Attach all patches; each takes effect when the module that it patches is imported."""
    for patch in PATCHES:
        attach(patch)
