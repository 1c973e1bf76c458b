"""What CONTRIBUTING.md says of adding an estimator, done to a copy of the package: everything takes it from the table."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.helpers import PROJECT

PAGE = (PROJECT / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")
FUNCTION, ROW = re.findall(r"^```python\n(.*?)^```", PAGE.split("**An estimator**")[1], re.MULTILINE | re.DOTALL)
TABLE = "ESTIMATORS = {\n"

# What a user does, in a process of its own that imports the copy.
USE = """
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
import verl
from verl.trainer.ppo import core_algos

import verl_leaf
from verl_leaf.adapters.token_credit import EstimatorSettings, Responses, token_advantages
from verl_leaf.algorithm import grpo_floored_advantages
from verl_leaf.checks.config import check_estimator
from verl_leaf.config import compose
from verl_leaf.doctor.examine import Checkup, _estimators
from verl_leaf.show.advantages import VIEWS

assert verl_leaf.__file__.startswith(sys.argv[1])

tokens, rewards = torch.tensor([[5, 6], [5, 7], [8, 9]]), torch.tensor([0.0, 0.5, 1.0])
mask, group = torch.ones(3, 2, dtype=torch.bool), torch.zeros(3, dtype=torch.long)
expected = 2 * grpo_floored_advantages(rewards, group)[:, None].expand(3, 2)

config = compose("leaf", ["algorithm.adv_estimator=scaled"])
assert config.algorithm.scaled == {"scale": 0.5}
config = compose("leaf_speech", ["algorithm.adv_estimator=scaled", "algorithm.scaled.scale=2"])
check_estimator(config)
steps = []
advantages, _ = core_algos.get_adv_estimator_fn("scaled")(
    token_level_rewards=torch.nn.functional.pad(rewards[:, None], (0, 1)),
    response_mask=mask,
    index=np.array(["a"] * 3),
    config=config.algorithm,
    batch={"responses": tokens},
    report=steps.append,
)
assert torch.equal(advantages, expected) and "forks/early" in steps[0].metrics
with pytest.raises(ValueError, match="algorithm.scaled.scale=-1 is not valid. Valid values are numbers of 0 or more"):
    check_estimator(compose("leaf", ["algorithm.adv_estimator=scaled", "algorithm.scaled.scale=-1"]))
with pytest.raises(ValueError, match="leaf has no such setting|Could not override 'algorithm.scaled.scales'"):
    compose("leaf", ["algorithm.scaled.scales=2"])

settings = EstimatorSettings(estimator="scaled", scale=2.0)
(advantages,), metrics = token_advantages(settings, [Responses(tokens, torch.zeros(3, 2), mask)], rewards, group)
assert torch.equal(advantages, expected) and metrics == steps[0].metrics
(meaning,) = [field.metadata["help"] for field in fields(EstimatorSettings) if field.name == "scale"]
assert meaning == "scaled: factor of the paper's GRPO"
with pytest.raises(ValueError, match="scale=-1.0 is not valid. Valid values are numbers of 0 or more"):
    EstimatorSettings(scale=-1.0).options()

checkup = Checkup()
_estimators(checkup)
assert ("ok", "estimator", "scaled") in checkup.rows and not checkup.remedies
assert "scaled" in VIEWS
"""


@pytest.fixture
def copy(tmp_path):
    """The project's package and recipes, with the lines of the page."""
    project = tmp_path / "project"
    for folder in ("verl_leaf", "recipes"):
        shutil.copytree(PROJECT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__", "upstream"))
    file = project / "verl_leaf/algorithm/estimators.py"
    before, after = file.read_text(encoding="utf-8").split(TABLE)
    file.write_text(f"{before}{FUNCTION}\n\n{TABLE}{ROW}{after}", encoding="utf-8")
    return project


def test_the_page_is_short():
    assert len((FUNCTION + ROW).splitlines()) <= 12


@pytest.mark.slow
def test_verl_the_adapters_and_the_doctor_have_it(copy):
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    run = subprocess.run(
        [sys.executable, "-c", USE, copy], env=environment, cwd=copy, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_it_is_a_method_of_the_recipes(copy, dry_run):
    (command,) = dry_run(copy / "recipes/qwen2audio_leaf", METHOD="scaled", PYTHONPATH=str(copy))
    assert "algorithm.adv_estimator=scaled" in command
    with pytest.raises(
        ValueError, match="algorithm.adv_estimator=scaled: there is no such estimator. Choose one of leaf"
    ):
        dry_run("qwen2audio_leaf", METHOD="scaled", PYTHONPATH=str(PROJECT))
