"""verl's V1 trainers do not give LEAF what it needs, spread a prompt over the ranks, and count no skipped updates.

This is verl/trainer/ppo/v1/trainer_base.py PPOTrainer (0.9.1). Its registry accepts subclasses, but the class of a run
is one of verl's or of the user's. So their base class is extended, also for classes that are registered later.

- ``_compute_advantage`` does not fetch ``responses``, which an estimator with a parameter called ``batch`` gets
  (:mod:`verl_leaf.patches.advantage_batch`). The metrics that an estimator reports join those of the step, and its
  trees are traced (:mod:`verl_leaf.training.traces.writer`). https://github.com/verl-project/verl/pull/7473 proposes
  the first. Once recipes/upstream/2_estimator_fields is in verl, only the mask is fetched here: rejection sampling has
  changed the one that an estimator gets, in which a rejected token looks like a tool's.
- ``_balance_batch`` distributes the rows of a batch over the ranks by their lengths, whichever prompt they belong to,
  and has no switch. Each rank then splits its own rows into mini-batches (verl/workers/engine_workers.py
  train_mini_batch). With ``share_prompts``, rows are distributed so that a mini-batch over all ranks consists of whole
  prompts, as on one rank.
- ``fit`` saves a checkpoint every ``save_freq`` steps and at the end, but not on a signal. If there is a file ``stop``
  beside the checkpoints when a ``step`` ends, this step becomes the last: a checkpoint is saved, and there is no
  validation.
- ``_update_actor`` averages the norms of a step's gradients, so the number of non-finite ones is lost
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

UPSTREAM = "adv_estimator_fields"  # in verl's source once recipes/upstream/2_estimator_fields is in it
SOLVED = "active: for metrics, checks, shared prompts and counts of updates; the responses are solved upstream"


class V1TrainerMixin:
    """Methods before those of verl's trainer: fetch the responses, report, trace, keep prompts together, and count."""

    verl_fetches: bool  # True if verl fetches the estimator's fields

    def __init__(self, config):
        from verl_leaf.training.traces.writer import TraceWriter

        super().__init__(config)
        self.leaf_traces = TraceWriter()

    def step(self, metrics, timing_raw):
        batch = super().step(metrics, timing_raw)
        settings = self.config.trainer
        if settings.save_freq > 0 and Path(settings.default_local_dir, STOP).exists():
            print(f"Told to stop: step {self.global_steps} is the last one, and its checkpoint is saved", flush=True)
            settings.save_freq, settings.test_freq, self.total_training_steps = 1, -1, self.global_steps
        return batch

    def _compute_advantage(self, batch, metrics):
        from verl.trainer.ppo.v1 import trainer_base

        from verl_leaf.training.estimator import WRITTEN_MASK, RewardError

        self._refuse_several_outputs(batch)
        steps: list[Any] = []
        compute = trainer_base.compute_advantage_for_multi_trajectories

        def with_responses(data, *args, **kwargs):
            self._add_fields(data, batch)
            data.meta_info[REPORT] = steps.append
            try:
                result = compute(data, *args, **kwargs)
                # verl's pull request 7497 writes all columns that it finds added into TransferQueue.
                for name in ("responses", "attention_mask", WRITTEN_MASK):
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
        sessions = {key.rpartition("_")[0] for key in batch.keys}  # keys are uid_session_output
        if name in ESTIMATORS and len(sessions) < len(batch.keys):
            raise ValueError(
                f"algorithm.adv_estimator={name} cannot be combined with an agent loop that has several outputs per session, "
                "because each would count as a response. Use an agent loop with one output"
            )

    def _add_fields(self, data, batch) -> None:
        """Add the responses and the mask before rejection sampling to the data if the estimator needs the batch."""
        import torch
        from verl.trainer.ppo import core_algos

        from verl_leaf.training.estimator import WRITTEN_MASK

        estimator = core_algos.get_adv_estimator_fn(self.config.algorithm.adv_estimator)
        if "batch" not in inspect.signature(estimator).parameters:
            return
        fields = _fetch(batch, ["response_mask", *([] if self.verl_fetches else ["responses"])], batch.keys)
        fields[WRITTEN_MASK] = fields.pop("response_mask")
        if not self.verl_fetches:
            fields["attention_mask"] = torch.ones_like(fields["responses"])
        data.batch.update(fields.to_padded_tensor())

    def _trace(self, rollouts, leaf, batch) -> None:
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
        # verl would add fillers only after the last row, so a prompt that lacks responses would shift all prompts after it.
        batch = trainer_base.upsample_batch_to_divisible_size(batch, len(parts) * size, self.tokenizer.eos_token_id)
        with replaced(trainer_base, "get_seqlen_balanced_partitions", functools.partial(deal, parts, size)):
            return super()._balance_batch(batch, metrics, logging_prefix, keep_minibatch)

    def _update_actor(self, batch, metrics):
        from verl.trainer.ppo.v1 import trainer_base

        with replaced(trainer_base, "reduce_metrics", counting(trainer_base.reduce_metrics)):
            return super()._update_actor(batch, metrics)


def _fetch(batch, fields: list[str], keys: list[str]):
    from verl.trainer.ppo.v1 import trainer_base

    return trainer_base.tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)


def in_words(messages: list[dict], longest: int = 300) -> str:
    """Return the text of chat messages, cut to ``longest`` characters; audio and images are named by path."""
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
        keys: keys of the rows, ``uid_session_output``. Rows of different prompts may alternate.
        size: number of rows in a mini-batch. If agent loops with several outputs make more rows of the prompts,
            mini-batches are cut at this size.
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
        parts: rows of each mini-batch. The other rows of the batch are fillers.
        size: number of rows to which fillers complete each mini-batch.

    Raises:
        ValueError: the rows cannot be shared equally.
    """
    if size % k_partitions or not equal_size:
        raise ValueError(f"a mini-batch of {size} rows cannot be shared equally by {k_partitions} ranks")
    fillers = iter(range(sum(map(len, parts)), len(seqlen_list)))
    full = [rows + list(islice(fillers, size - len(rows))) for rows in parts]
    full.append(list(fillers))  # rows that the critic needs

    def share(rows: list[int], rank: int) -> list[int]:
        return rows[rank * len(rows) // k_partitions : (rank + 1) * len(rows) // k_partitions]

    return [[row for rows in full for row in share(rows, rank)] for rank in range(k_partitions)]


def _patch(trainer_base: ModuleType) -> str:
    from verl.trainer.ppo.v1 import utils as v1_utils

    compute = expect(trainer_base, "PPOTrainer._compute_advantage", "self", "batch", "metrics")
    balance = ("self", "batch", "metrics", "logging_prefix", "keep_minibatch")
    expect(trainer_base, "PPOTrainer._balance_batch", *balance)
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
