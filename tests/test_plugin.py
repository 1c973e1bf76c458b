"""Errors of the plugin are heard, and a changed library is noticed."""

import os
import subprocess
import sys

import pytest


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def test_a_plugin_error_ends_the_process_with_a_message():
    """veRL itself would log it at DEBUG level and train without us."""
    run = python("import verl_leaf.patches as p; p.preflight.install = lambda: 1 / 0; import verl; print('went on')")
    assert run.returncode != 0
    assert "verl-leaf could not connect to veRL: division by zero" in run.stderr
    assert "went on" not in run.stdout


def test_a_changed_library_is_noticed():
    from verl_leaf.patches.base import PatchError, expect_parameters

    def function(runs, overrides): ...

    expect_parameters(function, "runs", "overrides")
    with pytest.raises(PatchError, match=r"takes \(runs, overrides\), the patch was written for \(runs\)"):
        expect_parameters(function, "runs")
