"""Errors of the plugin are heard."""

import os
import subprocess
import sys

import pytest


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


@pytest.mark.slow
def test_a_plugin_error_ends_the_process_with_a_message():
    """verl itself would log it at DEBUG level and train without us."""
    run = python("import verl_leaf.patches as p; p.install = lambda: 1 / 0; import verl; print('went on')")
    assert run.returncode != 0
    assert "verl-leaf could not connect to verl: division by zero" in run.stderr
    assert "went on" not in run.stdout


@pytest.mark.slow
def test_a_library_that_has_changed_under_a_patch_ends_the_process_with_a_message():
    """The hook runs inside the import of what it patches, which must not swallow it."""
    code = (
        "import verl.utils.metric as metric; metric.reduce_metrics = lambda other: other\n"
        "import verl.trainer.ppo.ray_trainer; print('went on')"
    )
    run = python(code)
    assert run.returncode != 0
    assert (
        "ray_trainer.reduce_metrics has the parameters (other), but the patch was written for (metrics)" in run.stderr
    )
    assert "went on" not in run.stdout
