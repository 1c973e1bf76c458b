"""Two runs on one host, each with its own Ray, send their weights through the same socket.

The actor hands weights to vLLM through a file in /tmp that is named after Ray's job
(verl/workers/rollout/vllm_rollout/vllm_rollout.py ServerAdapter.__init__ and utils.py _get_zmq_handle, 0.9.1). The
first job of every Ray cluster has the same name, so two such runs hang, or get each other's weights. The name of Ray's
session contains the start time of the cluster and so distinguishes the runs. (The address of Ray's control store may be
the same in two containers that share /tmp.)
"""

import functools
import os
from types import ModuleType

import ray

from verl_leaf.patches.base import SOLVED, TESTED_VERSIONS, PatchError, expect, says

UPSTREAM = "get_cluster_job_name"  # in verl's source once recipes/upstream/1_weight_socket is in it
JOB = "VERL_RAY_JOB_ID"
ACTIVE = "active: verl names the socket of weights only after the job"


def _names() -> tuple[str, str]:
    """Return the name of the job, and a name that no job of another cluster has."""
    context = ray.get_runtime_context()
    job = context.get_job_id()
    return job, f"{job}-{context.worker.node.session_name}"  # Ray 2.41 lacks get_session_name()


def _patch_sender(module: ModuleType) -> str:
    original = expect(module, "ServerAdapter.__init__")
    if says(original, UPSTREAM):
        return SOLVED

    @functools.wraps(original)
    def __init__(self, *args, **kwargs):
        original(self, *args, **kwargs)
        job, unique = _names()
        prefix = f"ipc:///tmp/rl-colocate-zmq-{job}-"
        if not self.zmq_handle.startswith(prefix):
            raise PatchError(
                f"verl sends weights through {self.zmq_handle}, which does not begin with {prefix}. {TESTED_VERSIONS}"
            )
        self.zmq_handle = self.zmq_handle.replace(job, unique, 1)

    module.ServerAdapter.__init__ = __init__
    return ACTIVE


def _patch_receiver(module: ModuleType) -> str:
    original = expect(module, "vLLMHttpServer.__init__")
    if says(original, UPSTREAM):
        return SOLVED

    @functools.wraps(original)
    def __init__(self, *args, **kwargs):
        original(self, *args, **kwargs)
        job, unique = _names()
        if os.environ.get(JOB) != job:
            raise PatchError(f"verl does not tell vLLM {JOB}={job}. {TESTED_VERSIONS}")
        os.environ[JOB] = unique  # vLLM's processes start later and inherit it

    module.vLLMHttpServer.__init__ = __init__
    return ACTIVE


HOOKS = {
    "verl.workers.rollout.vllm_rollout.vllm_rollout": _patch_sender,
    "verl.workers.rollout.vllm_rollout.vllm_async_server": _patch_receiver,
}
