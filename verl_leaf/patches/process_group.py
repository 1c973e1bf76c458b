"""On the CPU veRL names one backend twice.

verl/utils/distributed.py initialize_global_process_group_ray (0.9.1) asks torch for ``cpu:gloo,<device>:<backend>``, on
the CPU ``cpu:gloo,cpu:gloo``, which torch refuses. The default of its argument is changed rather than the function, so
that modules which have imported it already get it too.
"""

import wrapt

from verl_leaf.patches.base import STATUS, PatchError, expect_parameters


def install() -> None:
    wrapt.when_imported("verl.utils.distributed")(_patch)


def _patch(distributed_module) -> None:
    from verl.plugin.platform import get_platform

    if get_platform().device_name != "cpu":
        STATUS["process_group"] = "not needed: the platform is not the CPU"
        return
    function = distributed_module.initialize_global_process_group_ray
    expect_parameters(function, "timeout_second", "backend")
    if function.__defaults__ != (None, None):
        raise PatchError(f"{function.__module__}.{function.__name__} has the defaults {function.__defaults__}")
    function.__defaults__ = (None, "cpu:gloo")
    STATUS["process_group"] = "active: one process group backend on the CPU"
