"""On the CPU verl names one backend twice.

verl/utils/distributed.py initialize_global_process_group_ray (0.9.1) asks torch for ``cpu:gloo,<device>:<backend>``, on
the CPU ``cpu:gloo,cpu:gloo``, which torch refuses. The default of its argument is changed rather than the function, so
that modules which have imported it already get it too.
"""

from types import ModuleType

from verl_leaf.patches.base import PatchError, expect


def _patch(distributed_module: ModuleType) -> str:
    from verl.plugin.platform import get_platform

    function = expect(distributed_module, "initialize_global_process_group_ray", "timeout_second", "backend")
    if function.__defaults__ != (None, None):
        raise PatchError(f"{function.__module__}.{function.__name__} has the defaults {function.__defaults__}")
    if get_platform().device_name != "cpu":
        return "not needed: the platform is not the CPU"
    function.__defaults__ = (None, "cpu:gloo")
    return "active: one process group backend on the CPU"


HOOKS = {"verl.utils.distributed": _patch}
