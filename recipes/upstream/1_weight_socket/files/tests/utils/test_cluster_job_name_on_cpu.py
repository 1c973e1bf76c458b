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


def _in_cluster(monkeypatch, gcs_address, job_id="01000000"):
    context = SimpleNamespace(gcs_address=gcs_address, get_job_id=lambda: job_id)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    return get_cluster_job_name()


def test_jobs_of_two_clusters_have_different_names(monkeypatch):
    names = {
        _in_cluster(monkeypatch, "10.0.0.1:6379"),
        _in_cluster(monkeypatch, "10.0.0.1:6380"),
        _in_cluster(monkeypatch, "10.0.0.2:6379"),  # a worker node may belong to clusters with heads elsewhere
        _in_cluster(monkeypatch, "10.0.0.1:6379", job_id="02000000"),
    }
    assert len(names) == 4


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535"])
def test_name_fits_into_the_path_of_a_socket(monkeypatch, address):
    name = _in_cluster(monkeypatch, address)
    assert not set(name) & set(":/[]")
    # sun_path of sockaddr_un has 108 bytes on Linux, the last of which is zero.
    assert len(f"/tmp/rl-colocate-zmq-{name}-replica-99-rank-15.sock") < 108


def test_name_is_that_of_the_running_cluster():
    ray.init(num_cpus=8, include_dashboard=False, ignore_reinit_error=True)  # another test may have started it
    context = ray.get_runtime_context()
    host, port = context.gcs_address.rsplit(":", 1)
    assert get_cluster_job_name() == f"{context.get_job_id()}-{host}-{port}"
