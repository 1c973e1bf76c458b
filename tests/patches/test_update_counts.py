"""Updates that verl skips are counted in the legacy trainer; tests/patches/test_v1_trainer.py has the others."""

import math

from verl.trainer.ppo import ray_trainer

from verl_leaf.patches.update_counts import SKIPPED, UPDATES


def test_skipped_updates_are_counted(needed):
    norms = [0.5, math.nan, 1.5, math.inf]
    stock = ray_trainer.reduce_metrics.__wrapped__({"actor/grad_norm": list(norms), "actor/loss": [1.0, 3.0]})
    assert math.isnan(stock["actor/grad_norm"])  # all that verl would leave of it
    reduced = ray_trainer.reduce_metrics({"actor/grad_norm": list(norms), "actor/loss": [1.0, 3.0]})
    assert (reduced[UPDATES], reduced[SKIPPED], reduced["actor/loss"]) == (4, 2, 2.0)


def test_other_metrics_are_as_they_were():
    assert ray_trainer.reduce_metrics({"critic/grad_norm": [1.0, 2.0]}) == {"critic/grad_norm": 1.5}
