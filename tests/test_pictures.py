"""The READMEs' pictures are what ``pictures/draw.py`` draws today, and the first one shows the README's own example."""

import re

import pytest

from pictures.draw import HERE, PICTURES, RESPONSES, REWARDS, SURPRISAL
from tests.helpers import PROJECT


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_script_draws(name):
    assert (HERE / f"{name}.svg").read_text(encoding="utf-8") == PICTURES[name]().svg(), "run python pictures/draw.py"


def test_the_first_picture_is_the_example():
    text = (PROJECT / "README.md").read_text(encoding="utf-8").split("```python")[1].split("```")[0]
    surprisal, rewards = (
        re.search(r"surprisal = torch.tensor\((.*?)\)", text),
        re.search(r"rewards, .* = torch.tensor\((.*?)\)", text),
    )
    assert eval(surprisal[1]) == [list(row) for row in SURPRISAL]
    assert tuple(eval(rewards[1])) == REWARDS
    shown = re.findall(r"-?\d\.\d{4}", text)
    drawn = re.findall(r'font-weight="700">([-+]\d\.\d\d)<', (HERE / "idea.svg").read_text(encoding="utf-8"))[
        : len(RESPONSES) + 2
    ]
    assert {f"{float(value):+.2f}" for value in shown} == set(drawn)
