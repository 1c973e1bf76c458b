"""Two runs on one host do not send their weights through one socket."""

import os
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture
def rollout_config(queue):
    from verl.utils.config import omega_conf_to_dataclass

    from verl_leaf.config import compose

    config = compose("ppo_trainer", ["actor_rollout_ref.rollout.name=vllm"])
    return omega_conf_to_dataclass(config.actor_rollout_ref.rollout)


@pytest.fixture
def own_name():
    """The job's name, and with that of this Ray's session."""
    import ray

    context = ray.get_runtime_context()
    return context.get_job_id(), f"{context.get_job_id()}-{context.get_session_name()}"


def test_actor_and_vllm_take_the_same_name_of_ones_own(needed, rollout_config, own_name, monkeypatch):
    from verl.workers.rollout.replica import RolloutMode
    from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer
    from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

    job, own = own_name
    for name, value in {"RANK": "0", "RAY_LOCAL_WORLD_SIZE": "1", "VERL_RAY_JOB_ID": ""}.items():
        monkeypatch.setenv(name, value)
    handles = []
    for construct in (ServerAdapter.__init__.__wrapped__, ServerAdapter.__init__):
        sender = ServerAdapter.__new__(ServerAdapter)
        construct(sender, rollout_config, None, None)
        handles.append(sender.zmq_handle)
    assert handles == [f"ipc:///tmp/rl-colocate-zmq-{name}-replica-0-rank-0.sock" for name in (job, own)]

    model = SimpleNamespace(hf_config=SimpleNamespace(max_position_embeddings=4096))
    vLLMHttpServer(rollout_config, model, RolloutMode.HYBRID, [], 0, 0, 1, 1, "")
    assert os.environ["VERL_RAY_JOB_ID"] == own  # of which vLLM's worker makes the socket's name
    assert len(handles[1].removeprefix("ipc://")) < 100  # of 107; process id and ranks may have more digits
