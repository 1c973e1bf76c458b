"""recipes/slurm.sh with stand-ins for Slurm: it ends when it is told to, and trains on two nodes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import PROJECT
from tests.helpers.recipe import kill, wait_for
from verl_leaf.runs.summary import read_scalars

SCRIPT = PROJECT / "recipes/slurm.sh"
# A step of a job on one node: the node is an address of this host, and has logical CPUs enough.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do [[ $1 != --nodelist=* ]] || host=${1#*=}; shift; done
exec "$@" --node-ip-address="$host" --num-cpus=16
"""
SCONTROL = "#!/usr/bin/env bash\nprintf '127.0.0.1\\n127.0.0.2\\n'\n"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def slurm(tmp_path):
    """The environment of a job, and a function that starts it with a recipe."""
    script(tmp_path / "slurm/srun", SRUN)
    script(tmp_path / "slurm/scontrol", SCONTROL)
    job = {"SLURM_JOB_NODELIST": "two", "SLURM_JOB_ID": str(os.getpid()), "SLURM_GPUS_ON_NODE": "1"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path / 'slurm'}:{os.environ['PATH']}"}

    def start(recipe: Path, *overrides: str, **variables: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", SCRIPT, recipe, *overrides], env=environment | variables, start_new_session=True
        )

    return start


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [0, 2])
def test_it_ends_when_it_is_told_to(slurm, tmp_path, nodes):
    """While it waits for nodes at once, while it trains after the recipe has saved."""
    script(tmp_path / "venv/bin/ray", "#!/usr/bin/env bash\n[[ $1 != start ]] || exec sleep 60\n")
    script(tmp_path / "venv/bin/python", f"#!/usr/bin/env bash\ntouch {tmp_path}/waits; echo {nodes}\n")
    trap = f"trap 'sleep 0.5; touch {tmp_path}/saved; exit 143' TERM; touch {tmp_path}/trains; sleep 60 & wait"
    recipe = script(tmp_path / "recipe.sh", trap)
    process = slurm(recipe, VENV=str(tmp_path / "venv"))
    try:
        wait_for((tmp_path / ("trains" if nodes else "waits")).exists, process, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    finally:
        kill(process)
    assert (tmp_path / "saved").exists() == bool(nodes)


@pytest.mark.e2e
@pytest.mark.thorough
def test_two_nodes_train(slurm, task, tmp_path):
    variables = {
        "VENV": str(Path(sys.executable).parents[1]),
        "MODEL": str(task / "model"),
        "TRAIN": str(task / "data/train.parquet"),
        "VAL": str(task / "data/val.parquet"),
        "RUN": str(tmp_path / "run"),
        "PYTHONPATH": str(PROJECT),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB on each node; otherwise a share of the host's memory, which both have in common
    }
    joins = ["ray_kwargs.ray_init.num_cpus=null", "ray_kwargs.ray_init.num_gpus=null"]
    short = [
        "trainer.total_training_steps=2",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=1",
    ]
    process = slurm(PROJECT / "recipes/qwen2audio_leaf.sh", *joins, *short, **variables)
    deadline = time.monotonic() + 1800
    try:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(1)
        assert process.returncode == 0, (tmp_path / "run/train.log").read_text(errors="replace")[-5000:]
    finally:
        kill(process)
    assert read_scalars(tmp_path / "run/metrics")["training/rollout_probs_diff_max"][2] < 1e-4
    assert len(list((tmp_path / "run/checkpoints/global_step_2/actor").glob("model_world_size_2_rank_*.pt"))) == 2
    assert (tmp_path / "run/adapter/adapter_model.safetensors").exists()
