"""A run's own Ray cluster: short paths of sockets, and no other cluster in its way."""

import os
import socket
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from verl_leaf.runs import cluster
from verl_leaf.runs.cluster import BELOW, has_own_cluster, short_folders


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_temporary_folder_gets_a_short_link(tmp_path, monkeypatch, name):
    """A socket of the longest name that Ray gives one can be made below it, and is in the long folder."""
    long = tmp_path / "slurm_jobdir/1355700/user_name_01/tmp.node0016/local_scratch"
    monkeypatch.setenv(name, str(long))
    with short_folders() as links:
        assert links.keys() == {name}
        path = links[name] + BELOW
        Path(path).parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path)
        assert Path(str(long) + BELOW).is_socket()
    assert not os.path.lexists(links[name]) and Path(str(long) + BELOW).is_socket()


@pytest.mark.parametrize("folder", ["", "/tmp", "/" + "t" * 38])
def test_a_short_folder_stays(monkeypatch, folder):
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with short_folders() as links:
        assert links == {}


def test_a_link_that_cannot_be_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
    monkeypatch.setattr(cluster, "LINKS", str(tmp_path / "nowhere"))
    what = r"TMPDIR=.*: Ray's sockets need .* at most 39 characters.* Set TMPDIR to a shorter folder"
    with pytest.raises(ValueError, match=what), short_folders():
        pass


@pytest.mark.parametrize(
    "address, nodes, init, own",
    [
        (None, 1, {}, True),
        ("one:6379", 1, {}, False),  # a Slurm job of one node
        ("one:6379", 2, {}, False),
        (None, 2, {}, False),
        ("one:6379", 1, {"num_cpus": 16}, True),  # which ray.init refuses to do in a cluster that is there
        ("one:6379", 1, {"num_cpus": 16, "address": "two:1"}, False),
    ],
)
def test_other_clusters_on_the_machine(monkeypatch, address, nodes, init, own):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    config = OmegaConf.create({"trainer": {"nnodes": nodes}, "ray_kwargs": {"ray_init": {"num_cpus": None, **init}}})
    assert has_own_cluster(config) == own
