"""The shell functions that recipes share."""

import subprocess

import pytest

from tests.helpers import PROJECT


@pytest.mark.parametrize(
    "extras, environment",
    [
        ("cpu,examples", ".venv"),
        ("gpu", ".venv-gpu"),
        ("gpu,examples", ".venv-gpu"),
        ("gpu-newest", ".venv-gpu-newest"),
    ],
)
def test_recipes_and_examples_share_an_environment(extras, environment):
    script = f'source recipes/common.sh; install_into() {{ echo "into $1"; exit; }}; setup {extras}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    if "into" not in done.stdout:
        pytest.skip(f"{environment} is complete")
    assert f"into {PROJECT / environment}\n" in done.stdout
