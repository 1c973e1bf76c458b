"""verl passes an advantage estimator rewards, mask and index, but no tokens and no log-probabilities.

verl/trainer/ppo/ray_trainer.py compute_advantage (0.9.1) passes ``batch`` only to GDPO, by name. verl's pull request 7473
(https://github.com/verl-project/verl/pull/7473) proposes to pass ``batch`` to every estimator with such a parameter. Until
then this patch does the same; if verl passes one itself, verl's is used.

An estimator with a parameter called ``report`` gets a function that accepts a report on the step
(:class:`verl_leaf.training.estimator.Step`). In the legacy trainer the report's metrics join those of the step; the V1
trainers use the whole report (:mod:`verl_leaf.patches.v1_trainer`). A step with a non-finite reward is stopped with every
estimator, because verl would only skip its updates and continue.
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_leaf.patches.base import expect, expect_definition, rebind, replaced, says

HOME = "verl.trainer.ppo.ray_trainer"  # where compute_advantage is; verl's pull request 7237 moves it to trainer_utils
# In verl's source once recipes/upstream/2_estimator_fields is in it; then this patch passes and fetches nothing.
UPSTREAM = "get_adv_estimator_parameters"
SOLVED = "active: for metrics and checks; `batch` is solved upstream"

# Key in DataProto.meta_info, which the legacy trainer sends to its workers. So it contains only floats, unless REPORT is set.
METRICS = "verl_leaf/metrics"
REPORT = "verl_leaf/report"  # key of a function that accepts the whole report, during the call


def _patch(ray_trainer: ModuleType) -> str:
    from verl_leaf.training.estimator import check_rewards

    parameters = ("data", "adv_estimator", "gamma", "lam", "num_repeat", "norm_adv_by_std_in_grpo", "config")
    original = expect(ray_trainer, "compute_advantage", *parameters)
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

    # The legacy trainer computes advantages in the middle of `fit`. This is the next function that it calls for its metrics.
    @functools.wraps(data_metrics)
    def compute_data_metrics(batch, *args, **kwargs):
        return {**data_metrics(batch, *args, **kwargs), **batch.meta_info.get(METRICS, {})}

    rebind(original, compute_advantage)
    ray_trainer.compute_data_metrics = compute_data_metrics
    return SOLVED if solved else "active: verl passes `batch` to GDPO only"


def _bind(estimator: Callable, **offered: Any) -> Callable:
    """Return the estimator with those of the offered arguments that its signature has."""
    parameters = inspect.signature(estimator).parameters
    return functools.partial(estimator, **{name: value for name, value in offered.items() if name in parameters})


HOOKS = {HOME: _patch}
