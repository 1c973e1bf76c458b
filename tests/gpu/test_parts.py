"""The parts of `verl-leaf doctor --gpu` that need no engine."""

import functools

import pytest

from verl_leaf.doctor.selftest import parts
from verl_leaf.models import FAMILIES

ACTORS = [functools.partial(parts.actor, family) for family in FAMILIES.values()]


@pytest.mark.parametrize(
    "part", [parts.attention, parts.log_probabilities, *ACTORS], ids=["attention", "log_probs", *FAMILIES]
)
def test_nothing_is_wrong(part):
    findings = list(part("cuda"))
    for finding in findings:
        print(f"\n{finding.what}: {finding.found}")
    assert [finding.remedy for finding in findings] == [None] * len(findings)
