"""verl hands an advantage estimator rewards, mask and index, but not the tokens and log-probabilities.

verl/trainer/ppo/ray_trainer.py compute_advantage (0.9.1) passes ``batch`` to GDPO by name only, and
verl/trainer/ppo/v1/trainer_base.py PPOTrainer._compute_advantage does not fetch ``responses``. verl's pull request 7473
proposes to pass ``batch`` to every estimator whose signature takes it. Until then this does the same for estimators with
a parameter called ``batch``; where verl passes one itself, verl's wins.

An estimator with a parameter called ``report`` is given a function that takes what it has to say about the step
(:class:`verl_leaf.training.estimator.Step`): its metrics join those of the trainer's step, its trees are traced
(:mod:`verl_leaf.training.traces.writer`; by the V1 trainer only). And a step with a reward that is not finite is stopped, whatever
the estimator: verl would skip its updates and go on.
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_leaf.patches.base import expect, rebind, replaced, says

# What verl asks an estimator for once recipes/upstream/2_estimator_fields is in it; then we pass and fetch nothing.
UPSTREAM = "get_adv_estimator_parameters"
SOLVED = "active: for metrics and checks; `batch` is solved upstream"

# In DataProto.meta_info, which the legacy trainer sends on to its workers: so plain floats only, unless asked for more.
METRICS = "verl_leaf/metrics"
REPORT = "verl_leaf/report"  # a function that takes the whole step, for the time of the call


def _patch_compute_advantage(ray_trainer: ModuleType) -> str:
    from verl_leaf.training.estimator import check_rewards

    given = ("data", "adv_estimator", "gamma", "lam", "num_repeat", "norm_adv_by_std_in_grpo", "config")
    original = expect(ray_trainer, "compute_advantage", *given)
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


def _patch_v1_trainer(trainer_base: ModuleType) -> str:
    import torch

    from verl_leaf.training.estimator import ESTIMATORS, RewardError, check_rewards

    original = expect(trainer_base, "PPOTrainer._compute_advantage", "self", "batch", "metrics")
    solved = says(original, "adv_estimator_fields")

    @functools.wraps(original)
    def _compute_advantage(self, batch, metrics):
        steps: list[Any] = []
        compute = trainer_base.compute_advantage_for_multi_trajectories
        name = self.config.algorithm.adv_estimator
        estimator = trainer_base.core_algos.get_adv_estimator_fn(name)
        sessions = {key.rpartition("_")[0] for key in batch.keys}  # of uid_session_output
        if name in ESTIMATORS and len(sessions) < len(batch.keys):
            raise ValueError(
                f"algorithm.adv_estimator={name} does not go with an agent loop that has several outputs per session: each "
                "would count as a response of its own"
            )

        def fetch(fields, keys=batch.keys):
            return trainer_base.tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)

        def with_responses(data, *args, **kwargs):
            try:
                check_rewards(data.batch["token_level_rewards"], data.non_tensor_batch["uid"])
            except RewardError as error:
                (messages,) = fetch(["raw_prompt"], [batch.keys[error.row]])["raw_prompt"]
                raise RewardError(f"{error}. The prompt: {in_words(messages)}", error.row) from None
            if not solved and "batch" in inspect.signature(estimator).parameters:
                responses = fetch(["responses"])
                responses["attention_mask"] = torch.ones_like(responses["responses"])
                data.batch.update(responses.to_padded_tensor())
            data.meta_info[REPORT] = steps.append
            return compute(data, *args, **kwargs)

        with replaced(trainer_base, "compute_advantage_for_multi_trajectories", with_responses):
            result = original(self, batch, metrics)
        for step in steps:
            metrics.update(step.metrics)
            if step.trees is not None:
                _trace(self, step.trees, fetch)
        return result

    trainer_base.PPOTrainer._compute_advantage = _compute_advantage
    return SOLVED if solved else "active: verl does not fetch the responses"


def in_words(messages: list[dict], longest: int = 300) -> str:
    """What chat messages say, cut to ``longest`` characters; audio and images by their path, never by their bytes."""
    words = []
    for message in messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            value = part.get(part["type"])
            path = value.get("path") if isinstance(value, dict) else value
            words.append(path if isinstance(path, str) else f"({part['type']})")
    text = " ".join(words)
    return repr(text if len(text) <= longest else text[:longest] + "...")


def _trace(trainer, trees, fetch: Callable) -> None:
    """Write the trees of a V1 trainer's step, if they are asked for."""
    from verl_leaf.training.estimator import read_options
    from verl_leaf.training.traces import writer

    traces = trainer.__dict__.setdefault("leaf_traces", writer.TraceWriter())
    traces.write(
        read_options("leaf", trainer.config.algorithm),
        trainer.global_steps,
        trees,
        lambda: _columns(fetch(writer.FIELDS)),
        trainer.tokenizer,
        append=trainer.local_trigger_step > 0,
    )


def _columns(fields) -> dict[str, list]:
    """A TensorDict with nested tensors and other objects as lists, an entry per row."""
    return {name: list(fields[name]) for name in fields.keys()}


HOOKS = {
    "verl.trainer.ppo.ray_trainer": _patch_compute_advantage,
    "verl.trainer.ppo.v1.trainer_base": _patch_v1_trainer,
}
