"""The READMEs' pictures are what ``.github/pictures/draw.py`` draws today, and the first one shows the README's own example."""

import re
import runpy
from pathlib import Path

import pytest

from tests.helpers import PROJECT
from verl_leaf.runs.folder import RunFolder

HERE = PROJECT / ".github/pictures"
DRAWN = runpy.run_path(str(HERE / "draw.py"))
PICTURES, RESPONSES, REWARDS, SURPRISAL = (DRAWN[name] for name in ("PICTURES", "RESPONSES", "REWARDS", "SURPRISAL"))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_script_draws(name):
    assert (HERE / f"{name}.svg").read_text(encoding="utf-8") == PICTURES[name]().svg(), (
        "run python .github/pictures/draw.py"
    )


def test_the_first_picture_is_the_example():
    text = (PROJECT / "README.md").read_text(encoding="utf-8").split("```python")[1].split("```")[0]
    surprisal = re.search(r"surprisal = tensor\((.*?)\)", text)[1]
    rewards = re.search(r"rewards, .* = tensor\((.*?)\)", text)[1]
    assert eval(surprisal) == [list(row) for row in SURPRISAL]
    assert eval(rewards) == list(REWARDS)
    numbers = re.findall(r'font-weight="700">([-+]\d\.\d\d)<', (HERE / "idea.svg").read_text(encoding="utf-8"))
    spans = numbers[: -len(RESPONSES)]  # behind them are GRPO's, one per response
    assert {f"{float(value):+.2f}" for value in re.findall(r"-?\d\.\d{4}", text)} == set(spans)


def test_the_picture_of_a_runs_folder_shows_all_its_files():
    run = RunFolder(Path())
    paths = {name: getattr(run, name).as_posix() for name, entry in vars(RunFolder).items() if hasattr(entry, "_parts")}
    picture = (HERE / "run.svg").read_text(encoding="utf-8")
    assert len(paths) > 10
    assert not [name for name, path in paths.items() if f">{path}" not in picture and f" {path}" not in picture]
