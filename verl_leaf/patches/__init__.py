"""Changes to the libraries underneath that no configuration, registry or subclass could replace. One file each.

Every patch says what breaks without it and in which file and version, checks that the code it changes is as expected,
and stops with :class:`PatchError` where it is not. ``STATUS`` tells what was done in this process, for
``verl-leaf doctor``.
"""

from verl_leaf.patches import (
    advantage_batch,
    failed_prompts,
    granite_mel,
    groups_together,
    model_class,
    onednn_weights,
    preflight,
    process_group,
    ref_offload,
    speech_processor,
    weight_socket,
)
from verl_leaf.patches.base import STATUS, PatchError

__all__ = ["STATUS", "PatchError", "install_for_verl", "install_for_vllm"]


def install_for_verl() -> None:
    """Attach the patches of veRL; each takes effect when veRL imports the module it changes."""
    speech_processor.install()
    advantage_batch.install()
    failed_prompts.install()
    granite_mel.install()
    groups_together.install()
    model_class.install()
    preflight.install()
    process_group.install()
    ref_offload.install()
    weight_socket.install()


def install_for_vllm() -> None:
    """Apply the patches of vLLM."""
    granite_mel.install()
    onednn_weights.install()
