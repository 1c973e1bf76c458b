"""Recipes as a dry run prints them."""

import os
import shlex
import subprocess

import pytest

from tests.helpers import PROJECT
from verl_leaf.cli import main

# Stand-ins of a recipe's machine. (What `verl-leaf` is called with then runs in the test's process, which has imported verl.)
NVIDIA_SMI = "#!/bin/sh\nfor number in $(seq {gpus}); do echo GPU $number: NVIDIA; done\n"
VERL_LEAF = '#!/bin/sh\nprintf \'%s\\0\' "$PWD" "$@" > {called}\n'


@pytest.fixture
def dry_run(tmp_path, task, monkeypatch, capsys):
    """Commands of a recipe on a machine with so many GPUs, as lists of words."""

    def dry_run(recipe, *arguments, gpus=8, **environment):
        called = tmp_path / "called"
        stand_ins = {"nvidia-smi": NVIDIA_SMI.format(gpus=gpus), "verl-leaf": VERL_LEAF.format(called=called)}
        if "PYTHONPATH" in environment:  # another package than this process has imported
            del stand_ins["verl-leaf"]
        folder = tmp_path / f"bin{len(stand_ins)}"
        folder.mkdir(exist_ok=True)
        for name, body in stand_ins.items():
            (folder / name).write_text(body)
            (folder / name).chmod(0o755)
        path = f"{folder}:{os.environ['PATH']}"
        run = subprocess.run(
            ["bash", PROJECT / "recipes" / f"{recipe}.sh", "--dry-run", *arguments],
            env={
                **{name: value for name, value in os.environ.items() if name != "VENV"},
                "PATH": path,
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
        printed = run.stdout
        if "verl-leaf" in stand_ins:
            place, *words = called.read_text().split("\0")[:-1]
            capsys.readouterr()
            with monkeypatch.context() as recipes:
                recipes.chdir(place)
                recipes.setenv("PATH", path)
                status = main(words)
            printed, errors = capsys.readouterr()
            if status:
                raise ValueError(errors)
        assert not (tmp_path / "run").exists()
        words = shlex.split(printed.replace("\\\n", ""))
        starts = [number for number, word in enumerate(words) if word.endswith("python")]
        return [words[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]

    return dry_run
