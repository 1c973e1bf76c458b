"""Updates that verl skips are counted."""

import math

import pytest
from verl.trainer.ppo import ray_trainer
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.utils import MetricsAggregator

from verl_leaf.patches.update_counts import SKIPPED, UPDATES


@pytest.mark.parametrize("trainer", [ray_trainer, trainer_base])
def test_skipped_updates_are_counted(trainer):
    norms = [0.5, math.nan, 1.5, math.inf]
    stock = trainer.reduce_metrics.__wrapped__({"actor/grad_norm": list(norms), "actor/loss": [1.0, 3.0]})
    assert math.isnan(stock["actor/grad_norm"])  # all that verl would leave of it
    reduced = trainer.reduce_metrics({"actor/grad_norm": list(norms), "actor/loss": [1.0, 3.0]})
    assert (reduced[UPDATES], reduced[SKIPPED], reduced["actor/loss"]) == (4, 2, 2.0)


def test_other_metrics_are_as_they_were():
    assert trainer_base.reduce_metrics({"critic/grad_norm": [1.0, 2.0]}) == {"critic/grad_norm": 1.5}


def test_the_parts_of_a_step_add_up():
    aggregator = MetricsAggregator()
    for norms in ([1.0, 2.0], [math.nan, 1.0]):
        aggregator.add_step_metrics(trainer_base.reduce_metrics({"actor/grad_norm": norms}), sample_count=8)
    total = aggregator.get_aggregated_metrics()
    assert (total[UPDATES], total[SKIPPED]) == (4, 1)
