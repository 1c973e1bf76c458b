"""verl skips an update with non-finite gradients, and counts neither updates nor skipped ones.

verl/workers/engine/fsdp/transformer_impl.py FSDPEngine.optimizer_step (0.9.1) prints a warning into the worker's log.
In the metrics, the norm of such a gradient only makes the mean over a step's updates NaN, which the file logger writes
as null and other loggers drop. So the number of skipped updates is lost. This patch counts both numbers where the
legacy trainer averages the norms, and :mod:`verl_leaf.patches.v1_trainer` does so in the V1 trainers. verl adds up
metrics whose names end in ``sum`` if a step has several parts (MetricsAggregator).
"""

import functools
from collections.abc import Callable
from types import ModuleType

import numpy as np

from verl_leaf.patches.base import SOLVED, expect, says

UPDATES = "training/updates/sum"
SKIPPED = "training/skipped_updates/sum"
UPSTREAM = "count_updates("  # in verl's source once recipes/upstream/9_skipped_updates is in it, with the same metrics


def counting(reduce_metrics: Callable) -> Callable:
    """Return verl's function that averages metrics, extended to count updates."""

    @functools.wraps(reduce_metrics)
    def counted(metrics):
        norms = np.array(metrics.get("actor/grad_norm", []), dtype=float)  # one per update; verl averages in place
        reduced = reduce_metrics(metrics)
        if norms.size:
            reduced[UPDATES], reduced[SKIPPED] = norms.size, int((~np.isfinite(norms)).sum())
        return reduced

    return counted


def _patch(ray_trainer: ModuleType) -> str:
    reduce_metrics = expect(ray_trainer, "reduce_metrics", "metrics")
    if says(ray_trainer.RayPPOTrainer.fit, UPSTREAM):
        return SOLVED
    ray_trainer.reduce_metrics = counting(reduce_metrics)
    return "active: verl does not count the updates that it skips"


HOOKS = {"verl.trainer.ppo.ray_trainer": _patch}
