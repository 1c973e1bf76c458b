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
"""The name by which a Ray job is known on its host."""

from types import SimpleNamespace

import pytest
import ray

from verl.utils.ray_utils import get_cluster_job_name


def _in_cluster(monkeypatch, session_name, job_id="01000000"):
    worker = SimpleNamespace(node=SimpleNamespace(session_name=session_name))
    context = SimpleNamespace(worker=worker, get_job_id=lambda: job_id)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    return get_cluster_job_name()


def test_jobs_of_two_clusters_have_different_names(monkeypatch):
    names = {
        _in_cluster(monkeypatch, "session_2026-01-31_12-00-00_123456_78"),
        _in_cluster(monkeypatch, "session_2026-01-31_12-00-00_123457_78"),
        _in_cluster(monkeypatch, "session_2026-01-31_12-00-00_123456_78", job_id="02000000"),
    }
    assert len(names) == 3


@pytest.fixture
def cluster():
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(num_cpus=8, include_dashboard=False)
    yield
    if started_here:
        ray.shutdown()


def test_name_is_that_of_the_running_cluster_everywhere_in_it(cluster):
    name = get_cluster_job_name()
    job_id, session = name.split("-", 1)
    assert job_id == ray.get_runtime_context().get_job_id() and session.startswith("session_2")
    assert ray.get(ray.remote(get_cluster_job_name).remote()) == name
    # sun_path of sockaddr_un has 108 bytes on Linux, the last of which is zero; a process id has up to seven digits.
    longest = session.rpartition("_")[0] + "_4194304"
    assert len(f"/tmp/rl-colocate-zmq-{job_id}-{longest}-replica-999-rank-99.sock") < 108
