"""Recipes as a dry run prints them."""

import os
import shlex
import subprocess

import pytest

from tests.helpers import PROJECT


@pytest.fixture
def dry_run(tmp_path, task):
    """Commands of a recipe on a machine with so many GPUs, as lists of words."""

    def dry_run(recipe, *arguments, gpus=8, **environment):
        smi = tmp_path / "nvidia-smi"
        smi.write_text("#!/bin/sh\n" + "".join(f"echo GPU {number}: NVIDIA\n" for number in range(gpus)))
        smi.chmod(0o755)
        run = subprocess.run(
            ["bash", PROJECT / "recipes" / f"{recipe}.sh", "--dry-run", *arguments],
            env={
                **{name: value for name, value in os.environ.items() if name != "VENV"},
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "TRAIN": str(task / "data/train.parquet"),
                "VAL": str(task / "data/val.parquet"),
                "RUN": str(tmp_path / "run"),
                **environment,
            },
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise ValueError(run.stderr)
        assert not (tmp_path / "run").exists()
        words = shlex.split(run.stdout.replace("\\\n", ""))
        starts = [number for number, word in enumerate(words) if word.endswith("python")]
        return [words[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]

    return dry_run
