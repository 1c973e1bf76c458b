"""verl hands an advantage estimator rewards, mask and index, but not the tokens and log-probabilities.

verl/trainer/ppo/ray_trainer.py compute_advantage (0.9.1) passes ``batch`` to GDPO by name only. verl's pull request 7473
(https://github.com/verl-project/verl/pull/7473) proposes to pass ``batch`` to every estimator whose signature takes it.
Until then this does the same for estimators with a parameter called ``batch``; if verl passes one itself, verl's wins.

An estimator with a parameter called ``report`` is given a function that takes what it has to say about the step
(:class:`verl_leaf.training.estimator.Step`): its metrics join those of the legacy trainer's step; the V1 trainers take it
whole (:mod:`verl_leaf.patches.v1_trainer`). And a step with a reward that is not finite is stopped, whatever the estimator:
verl would skip its updates and go on.
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_leaf.patches.base import expect, expect_definition, rebind, replaced, says

HOME = "verl.trainer.ppo.ray_trainer"  # of compute_advantage; verl's pull request 7237 moves it to trainer_utils
# What verl asks an estimator for once recipes/upstream/2_estimator_fields is in it; then we pass and fetch nothing.
UPSTREAM = "get_adv_estimator_parameters"
SOLVED = "active: for metrics and checks; `batch` is solved upstream"

# In DataProto.meta_info, which the legacy trainer sends on to its workers: so plain floats only, unless asked for more.
METRICS = "verl_leaf/metrics"
REPORT = "verl_leaf/report"  # a function that takes the whole step, for the time of the call


def _patch(ray_trainer: ModuleType) -> str:
    from verl_leaf.training.estimator import check_rewards

    given = ("data", "adv_estimator", "gamma", "lam", "num_repeat", "norm_adv_by_std_in_grpo", "config")
    original = expect(ray_trainer, "compute_advantage", *given)
    expect_definition(original, HOME, "advantage_batch")
    find = expect(ray_trainer.core_algos, "get_adv_estimator_fn", "name_or_enum")
    data_metrics = expect(ray_trainer, "compute_data_metrics", "batch", "use_critic")
    solved = says(original, UPSTREAM)

    @functools.wraps(original)
    def compute_advantage(data, adv_estimator, *args, **kwargs):
        check_rewards(data.batch["token_level_rewards"], data.non_tensor_batch.get("uid"))
        report = data.meta_info.pop(REPORT, lambda step: data.meta_info.update({METRICS: step.metrics}))

        def bound(name_or_enum):
            return _bind(find(name_or_enum), report=report, **({} if solved else {"batch": data.batch}))

        with replaced(ray_trainer.core_algos, "get_adv_estimator_fn", bound):
            return original(data, adv_estimator, *args, **kwargs)

    # The legacy trainer computes advantages in the middle of `fit`; this is the next it does to its metrics.
    @functools.wraps(data_metrics)
    def compute_data_metrics(batch, *args, **kwargs):
        return {**data_metrics(batch, *args, **kwargs), **batch.meta_info.get(METRICS, {})}

    rebind(original, compute_advantage)
    ray_trainer.compute_data_metrics = compute_data_metrics
    return SOLVED if solved else "active: verl passes `batch` to GDPO only"


def _bind(estimator: Callable, **offered: Any) -> Callable:
    """The estimator with those of the offered arguments that its signature has."""
    parameters = inspect.signature(estimator).parameters
    return functools.partial(estimator, **{name: value for name, value in offered.items() if name in parameters})


HOOKS = {HOME: _patch}
