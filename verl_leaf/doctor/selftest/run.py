"""All parts of the self-test, in order."""

import functools
from collections.abc import Callable, Iterator

from verl_leaf.doctor.selftest import Finding, engine, parts
from verl_leaf.models import FAMILIES

FINDINGS = 3 + 4 * len(FAMILIES)  # number of findings if no part fails


def self_test(device: str) -> Iterator[Finding]:
    """Run all parts, and yield their findings. An error in a part becomes its finding."""
    works: dict[str, Callable[[str], Iterator[Finding]]] = {
        "attention": parts.attention,
        "log-probabilities": parts.log_probabilities,
    }
    for name, family in FAMILIES.items():
        works[f"actor {name}"] = functools.partial(parts.actor, family)
    for name, family in FAMILIES.items():
        works[f"vLLM {name}"] = functools.partial(engine.engine, family)
    for what, work in works.items():
        try:
            yield from work(device)
        except Exception as error:
            yield Finding(
                what,
                f"{type(error).__name__}: {error}",
                "read the output of vLLM and torch above; if it does not show the cause, report it with this table",
            )
