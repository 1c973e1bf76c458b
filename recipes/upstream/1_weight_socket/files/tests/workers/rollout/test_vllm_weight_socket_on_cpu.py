# Copyright 2026 Bytedance Ltd. and/or its affiliates
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The trainer and vLLM's workers of a Ray job meet at one weight-transfer socket, and no other job's do."""

from types import SimpleNamespace

import pytest
import ray

pytest.importorskip("vllm")

from verl.utils.config import omega_conf_to_dataclass  # noqa: E402
from verl.utils.ray_utils import get_cluster_job_name  # noqa: E402
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension  # noqa: E402
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter  # noqa: E402


def _sender_handle(monkeypatch, session_name):
    worker = SimpleNamespace(node=SimpleNamespace(session_name=session_name))
    context = SimpleNamespace(worker=worker, get_job_id=lambda: "01000000")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("RAY_LOCAL_WORLD_SIZE", "1")
    config = omega_conf_to_dataclass({"_target_": "verl.workers.config.RolloutConfig", "name": "vllm"})
    sender = ServerAdapter.__new__(ServerAdapter)
    ServerAdapter.__init__(sender, config, None, None)
    return sender.zmq_handle


def test_sender_and_receiver_agree(monkeypatch):
    handle = _sender_handle(monkeypatch, "session_a")
    monkeypatch.setenv("VERL_RAY_JOB_ID", get_cluster_job_name())  # as vLLMHttpServer forwards it
    monkeypatch.setenv("VERL_REPLICA_RANK", "0")
    receiver = SimpleNamespace(model_runner=None, local_rank=0)
    assert vLLMColocateWorkerExtension._get_zmq_handle(receiver) == handle


def test_two_clusters_on_one_host_have_two_sockets(monkeypatch):
    first, second = (_sender_handle(monkeypatch, name) for name in ("session_a", "session_b"))
    assert first != second
