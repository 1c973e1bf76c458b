"""veRL hands an advantage estimator rewards, mask and index, but not the tokens and log-probabilities.

verl/trainer/ppo/ray_trainer.py compute_advantage (0.9.1) passes ``batch`` to GDPO by name only, and
verl/trainer/ppo/v1/trainer_base.py PPOTrainer._compute_advantage does not fetch ``responses``. veRL's pull request 7473
proposes to pass ``batch`` to every estimator whose signature takes it. Until then this does the same for estimators with
a parameter called ``batch``; where veRL passes one itself, veRL's wins.

The same place lets LEAF say what it did: its metrics join those of the trainer's step, and its trees are traced
(:mod:`verl_leaf.traces.writer`; by the V1 trainer only).
"""

import functools
import inspect
from contextlib import contextmanager

import wrapt

from verl_leaf.patches.base import STATUS, expect_parameters, rebind

_fetched: dict = {}  # fields of the current batch that the V1 trainer does not fetch itself


def install() -> None:
    wrapt.when_imported("verl.trainer.ppo.ray_trainer")(_patch_compute_advantage)
    wrapt.when_imported("verl.trainer.ppo.v1.trainer_base")(_patch_v1_trainer)


def _patch_compute_advantage(ray_trainer) -> None:
    original = ray_trainer.compute_advantage
    expect_parameters(
        original, "data", "adv_estimator", "gamma", "lam", "num_repeat", "norm_adv_by_std_in_grpo", "config"
    )

    @functools.wraps(original)
    def compute_advantage(data, adv_estimator, *args, **kwargs):
        with _bound_batch(ray_trainer.core_algos, adv_estimator, data):
            return original(data, adv_estimator, *args, **kwargs)

    rebind(original, compute_advantage)

    # The legacy trainer computes advantages in the middle of `fit`; this is the next it does to its metrics.
    data_metrics = ray_trainer.compute_data_metrics
    expect_parameters(data_metrics, "batch", "use_critic")

    @functools.wraps(data_metrics)
    def compute_data_metrics(*args, **kwargs):
        from verl_leaf import estimator

        step = estimator.take_step()
        return {**data_metrics(*args, **kwargs), **(step.metrics if step else {})}

    ray_trainer.compute_data_metrics = compute_data_metrics
    STATUS["advantage_batch"] = "active: veRL passes `batch` to GDPO only"


@contextmanager
def _bound_batch(core_algos, name, data):
    """Register, for the time of one call, the estimator with ``batch`` as a default argument."""
    if not _takes_batch(core_algos, name):
        yield
        return
    registry = core_algos.ADV_ESTIMATOR_REGISTRY
    estimator = registry[name]
    registry[name] = functools.partial(estimator, batch={**_fetched, **dict(data.batch.items())})
    try:
        yield
    finally:
        registry[name] = estimator


def _takes_batch(core_algos, name) -> bool:
    estimator = core_algos.ADV_ESTIMATOR_REGISTRY.get(name)
    return estimator is not None and "batch" in inspect.signature(estimator).parameters


def _patch_v1_trainer(trainer_base) -> None:
    original = trainer_base.PPOTrainer._compute_advantage
    expect_parameters(original, "self", "batch", "metrics")
    traces = None

    @functools.wraps(original)
    def _compute_advantage(self, batch, metrics):
        from verl_leaf import estimator
        from verl_leaf.traces import writer as trace

        nonlocal traces
        traces = traces or trace.TraceWriter()

        def fetch(fields):
            return trainer_base.tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)

        if _takes_batch(trainer_base.core_algos, self.config.algorithm.adv_estimator):
            _fetched.update(fetch(["responses"]).to_padded_tensor().items())
        try:
            result = original(self, batch, metrics)
        finally:
            _fetched.clear()
        step = estimator.take_step()
        if step is not None:
            metrics.update(step.metrics)
            traces.write(
                estimator.LeafOptions.parse(self.config.algorithm),
                self.global_steps,
                step,
                lambda: _columns(fetch(trace.FIELDS)),
                self.tokenizer,
                append=self.local_trigger_step > 0,
            )
        return result

    trainer_base.PPOTrainer._compute_advantage = _compute_advantage


def _columns(fields) -> dict[str, list]:
    """A TensorDict with nested tensors and other objects as lists, an entry a row."""
    return {name: list(fields[name]) for name in fields.keys()}  # noqa: SIM118  (items() would give stacks)
