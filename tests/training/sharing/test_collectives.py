"""Ranks with different micro-batches come to the same collectives, or they would wait for each other for ever."""

import json

import pytest

from tests.helpers import two_ranks
from verl_leaf.models import FAMILIES

pytestmark = pytest.mark.slow
CASES = (
    "fillers",
    "no_audio",
    "some_without_audio",
    "clips",
    "prompts",
    "lengths",
    "packed_or_not",
    "worth_it_or_not",
    "micro_batches",
)


@pytest.fixture(scope="module")
def recorded(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collectives")
    here = [name for name, family in FAMILIES.items() if not family.missing]
    two_ranks.collectives({family: models(family) for family in here}, folder)
    return folder


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_both_ranks_have_the_same_collectives(models, recorded, family, case):
    models(family)  # which skips what this environment does not have
    one, other = (json.loads((recorded / f"{family}.{case}.{rank}.json").read_text()) for rank in (0, 1))
    assert one == other
    # Three forward passes and one backward, each gathering the embeddings, two layers and the output layer.
    gathered = [name for name, _ in one if "allgather" in name]
    assert len(gathered) >= 3 * 4, gathered
