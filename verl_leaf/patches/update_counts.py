"""verl skips an update whose gradients are not finite, and counts neither updates nor those it skips.

verl/workers/engine/fsdp/transformer_impl.py FSDPEngine.optimizer_step (0.9.1) prints a warning in the worker's log. In the
metrics the norm of such a gradient only makes the mean over a step's updates NaN, which the file logger writes as null and
others drop: how many were skipped, of how many, is lost. Here both are counted where the trainers average the norms. verl
adds metrics that end in ``sum`` up where a step has several parts (MetricsAggregator).
"""

import functools
from types import ModuleType

import numpy as np

from verl_leaf.patches.base import expect

UPDATES = "training/updates/sum"
SKIPPED = "training/skipped_updates/sum"


def _patch(trainer_module: ModuleType) -> str:
    original = expect(trainer_module, "reduce_metrics", "metrics")

    @functools.wraps(original)
    def reduce_metrics(metrics):
        norms = np.array(
            metrics.get("actor/grad_norm", []), dtype=float
        )  # one per update; the original averages in place
        reduced = original(metrics)
        if norms.size:
            reduced[UPDATES], reduced[SKIPPED] = norms.size, int((~np.isfinite(norms)).sum())
        return reduced

    trainer_module.reduce_metrics = reduce_metrics
    return "active: verl does not count the updates that it skips"


HOOKS = {"verl.trainer.ppo.ray_trainer": _patch, "verl.trainer.ppo.v1.trainer_base": _patch}
