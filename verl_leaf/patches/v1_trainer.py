"""verl's V1 trainers do not give LEAF what it needs, spread a prompt over the ranks, count no skipped updates, save on no signal.

verl/trainer/ppo/v1/trainer_base.py PPOTrainer (0.9.1). Its registry takes subclasses, but the class of a run is one of
verl's or a user's own, so what all of them derive from is extended: those registered later get it, too.

- ``_compute_advantage`` does not fetch ``responses``, which an estimator with a parameter called ``batch`` gets
  (:mod:`verl_leaf.patches.advantage_batch`). What an estimator reports joins the metrics of the step, and its trees are
  traced (:mod:`verl_leaf.training.traces.writer`). https://github.com/verl-project/verl/pull/7473
  proposes the first; once recipes/upstream/2_estimator_fields is in verl, nothing is
  fetched here.
- ``_balance_batch`` deals the rows of a batch out to the ranks by their lengths, whichever prompt they belong to, and has
  no switch. Each rank then cuts its own rows into mini-batches (verl/workers/engine_workers.py train_mini_batch). With
  ``share_prompts``, rows are dealt out so that the mini-batches of all ranks together are whole prompts, as on one rank.
- ``fit`` saves a checkpoint every ``save_freq`` steps and at the end, on no signal. If there is a file ``stop`` beside the
  checkpoints when a ``step`` ends, this step becomes the last: a checkpoint is saved, and nothing is validated.
- ``_update_actor`` averages the norms of a step's gradients, and the count of those that are not finite is lost
  (:mod:`verl_leaf.patches.update_counts`).
"""

import functools
import inspect
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any

from verl_leaf.common.names import STOP
from verl_leaf.patches.advantage_batch import HOME, REPORT
from verl_leaf.patches.base import expect, expect_definition, extend, replaced, says
from verl_leaf.patches.update_counts import counting
from verl_leaf.training.sharing import SHARE_PROMPTS

UPSTREAM = "adv_estimator_fields"  # what an estimator asks for, once recipes/upstream/2_estimator_fields is in verl
ADDED = ("responses", "attention_mask")  # columns that an estimator sees
SOLVED = "active: for metrics, checks, shared prompts and counts of updates; the responses are solved upstream"


class V1TrainerMixin:
    """Fetches the responses, reports, traces, keeps prompts together and counts, before the methods of verl's trainer."""

    verl_fetches: bool  # what an estimator asks for

    def __init__(self, config):
        from verl_leaf.training.traces.writer import TraceWriter

        super().__init__(config)
        self.leaf_traces = TraceWriter()

    def step(self, metrics, timing_raw):
        batch = super().step(metrics, timing_raw)
        settings = self.config.trainer
        if settings.save_freq > 0 and Path(settings.default_local_dir, STOP).exists():
            print(f"Told to stop: step {self.global_steps} is the last, and is saved", flush=True)
            settings.save_freq, settings.test_freq, self.total_training_steps = 1, -1, self.global_steps
        return batch

    def _compute_advantage(self, batch, metrics):
        from verl.trainer.ppo.v1 import trainer_base

        from verl_leaf.training.estimator import RewardError

        self._refuse_several_outputs(batch)
        steps: list[Any] = []
        compute = trainer_base.compute_advantage_for_multi_trajectories

        def with_responses(data, *args, **kwargs):
            self._add_responses(data, batch)
            data.meta_info[REPORT] = steps.append
            try:
                result = compute(data, *args, **kwargs)
                # verl's pull request 7497 writes all columns that it finds added into TransferQueue.
                for name in ADDED:
                    result.batch.pop(name, None)
                return result
            except RewardError as error:
                key = next(key for key in batch.keys if key.startswith(f"{error.prompt}_"))
                (messages,) = _fetch(batch, ["raw_prompt"], [key])["raw_prompt"]
                raise RewardError(f"{error}. The prompt: {in_words(messages)}", error.prompt) from None

        with replaced(trainer_base, "compute_advantage_for_multi_trajectories", with_responses):
            result = super()._compute_advantage(batch, metrics)
        for step in steps:
            metrics.update(step.metrics)
            if step.credit.leaf is not None:
                self._trace(step.rollouts, step.credit.leaf, batch)
        return result

    def _refuse_several_outputs(self, batch) -> None:
        from verl_leaf.training.estimator import ESTIMATORS

        name = self.config.algorithm.adv_estimator
        sessions = {key.rpartition("_")[0] for key in batch.keys}  # of uid_session_output
        if name in ESTIMATORS and len(sessions) < len(batch.keys):
            raise ValueError(
                f"algorithm.adv_estimator={name} does not go with an agent loop that has several outputs per session: each "
                "would count as a response of its own"
            )

    def _add_responses(self, data, batch) -> None:
        """Add the responses to the data if the estimator asks for the batch."""
        import torch
        from verl.trainer.ppo import core_algos

        estimator = core_algos.get_adv_estimator_fn(self.config.algorithm.adv_estimator)
        if not self.verl_fetches and "batch" in inspect.signature(estimator).parameters:
            responses = _fetch(batch, ["responses"], batch.keys)
            responses["attention_mask"] = torch.ones_like(responses["responses"])  # both of ADDED
            data.batch.update(responses.to_padded_tensor())

    def _trace(self, rollouts, leaf, batch) -> None:
        """Write the trees of a step, if they are asked for."""
        from verl_leaf.training.estimator import read_options
        from verl_leaf.training.traces.writer import FIELDS

        def columns() -> dict[str, list]:
            fields = _fetch(batch, FIELDS, batch.keys)
            return {name: list(fields[name]) for name in fields.keys()}

        options, append = read_options("leaf", self.config.algorithm), self.local_trigger_step > 0
        self.leaf_traces.write(options, self.global_steps, rollouts, leaf, columns, self.tokenizer, append=append)

    def _balance_batch(self, batch, metrics, logging_prefix="global_seqlen", keep_minibatch=False):
        from verl.trainer.ppo.v1 import trainer_base

        settings = self.config.actor_rollout_ref
        if not settings.model.override_config.get(SHARE_PROMPTS, False):
            return super()._balance_batch(batch, metrics, logging_prefix, keep_minibatch)
        prompts = settings.actor.ppo_mini_batch_size
        size = prompts * settings.rollout.n
        parts = mini_batches(batch.keys, prompts, size)
        # verl would fill up after the last row, so that a prompt that lacks responses would move all prompts behind it.
        batch = trainer_base.upsample_batch_to_divisible_size(batch, len(parts) * size, self.tokenizer.eos_token_id)
        with replaced(trainer_base, "get_seqlen_balanced_partitions", functools.partial(deal, parts, size)):
            return super()._balance_batch(batch, metrics, logging_prefix, keep_minibatch)

    def _update_actor(self, batch, metrics):
        from verl.trainer.ppo.v1 import trainer_base

        with replaced(trainer_base, "reduce_metrics", counting(trainer_base.reduce_metrics)):
            return super()._update_actor(batch, metrics)


def _fetch(batch, fields: list[str], keys: list[str]):
    """Columns of a batch's rows, from TransferQueue."""
    from verl.trainer.ppo.v1 import trainer_base

    return trainer_base.tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)


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


def mini_batches(keys: list[str], prompts: int, size: int) -> list[list[int]]:
    """Return the rows of each mini-batch, prompt by prompt.

    Args:
        keys: the keys of the rows, ``uid_session_output``. Rows of different prompts may alternate.
        prompts: the number of prompts in a mini-batch.
        size: the number of rows in a mini-batch. If agent loops with several outputs make more of the prompts, mini-batches
            are cut there.
    """
    of_prompt: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        of_prompt.setdefault(key.rsplit("_", 2)[0], []).append(row)
    whole = list(of_prompt.values())
    parts = [list(chain.from_iterable(whole[first : first + prompts])) for first in range(0, len(whole), prompts)]
    if max(map(len, parts)) > size:
        rows = list(chain.from_iterable(whole))
        parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    return parts


def deal(parts: list[list[int]], size: int, seqlen_list: list[int], k_partitions: int, equal_size: bool):
    """Return the rows of each rank: an equal share of every mini-batch, in the order of the mini-batches.

    Args:
        parts: the rows of each mini-batch. Those behind them in the batch are fillers.
        size: the number of rows in a mini-batch, to which fillers complete it.
        seqlen_list: one entry per row of the batch.
        k_partitions: the number of ranks.
        equal_size: always true.

    Raises:
        ValueError: the ranks cannot have equal shares.
    """
    if size % k_partitions or not equal_size:
        raise ValueError(f"a mini-batch of {size} rows cannot be dealt out equally to {k_partitions} ranks")
    fillers = iter(range(sum(map(len, parts)), len(seqlen_list)))
    full = [rows + list(islice(fillers, size - len(rows))) for rows in parts]
    full.append(list(fillers))  # if the critic needs more
    return [
        [
            row
            for rows in full
            for row in rows[rank * len(rows) // k_partitions : (rank + 1) * len(rows) // k_partitions]
        ]
        for rank in range(k_partitions)
    ]


def _patch(trainer_base: ModuleType) -> str:
    from verl.trainer.ppo.v1 import utils as v1_utils

    compute = expect(trainer_base, "PPOTrainer._compute_advantage", "self", "batch", "metrics")
    given = ("self", "batch", "metrics", "logging_prefix", "keep_minibatch")
    expect(trainer_base, "PPOTrainer._balance_batch", *given)
    expect(trainer_base, "PPOTrainer._update_actor", "self", "batch", "metrics")
    expect(trainer_base, "PPOTrainer.step", "self", "metrics", "timing_raw")
    expect(trainer_base, "get_seqlen_balanced_partitions", "seqlen_list", "k_partitions", "equal_size")
    expect(trainer_base, "upsample_batch_to_divisible_size", "batch", "batch_multiple", "eos_token_id")
    expect(trainer_base, "reduce_metrics", "metrics")
    expect_definition(expect(v1_utils, "compute_advantage"), HOME, "advantage_batch")
    solved = says(compute, UPSTREAM)
    extend(trainer_base, "PPOTrainer", V1TrainerMixin, verl_fetches=solved)
    return SOLVED if solved else "active: verl does not fetch the responses"


HOOKS = {"verl.trainer.ppo.v1.trainer_base": _patch}
