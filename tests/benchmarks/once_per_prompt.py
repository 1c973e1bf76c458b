"""What a prompt costs the agent loop when its audio is encoded and stored once, and when it is once a rollout.

    python -m tests.benchmarks.once_per_prompt MODEL TRAIN VAL [--rollouts 1 8 16]

Every cell is a run of two steps through real verl and vLLM; the second step counts. Measured is the process of the
agent-loop worker, which does nothing else: CPU seconds from a batch's arrival to its last rollout, those of them that went
into decoding audio and computing features, and the bytes of all tensors that it puts into TransferQueue.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
import transfer_queue as tq
from rich.table import Table

from tests.helpers.recipe import Recipe
from verl_leaf.common.console import Console
from verl_leaf.speech.agent_loop import SpeechAgentLoop, SpeechAgentLoopManager, SpeechAgentLoopWorker

PROMPTS = 8
STEPS = 2


class MeasuredWorker(SpeechAgentLoopWorker):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.bytes = self.audio = 0
        encode_now = SpeechAgentLoop._encode_now

        def timed(loop, messages, keep_features):
            begin = time.thread_time()
            try:
                return encode_now(loop, messages, keep_features)
            finally:
                self.audio += time.thread_time() - begin

        SpeechAgentLoop._encode_now = timed
        for name in ("async_kv_put", "async_kv_batch_put"):
            setattr(tq, name, self._counted(getattr(tq, name)))

    def _counted(self, put):
        async def counted(*args, fields=None, **kwargs):
            self.bytes += _bytes(fields)
            return await put(*args, fields=fields, **kwargs)

        return counted

    async def generate_sequences(self, batch):
        self.begin, self.bytes, self.audio, self.running = time.process_time(), 0, 0.0, len(batch)
        await super().generate_sequences(batch)

    async def _run_prompt(self, prompt, sampling_params, trajectory, **kwargs):
        await super()._run_prompt(prompt, sampling_params, trajectory, **kwargs)
        self.running -= 1
        if not self.running and not trajectory["validate"]:
            totals = {"all": time.process_time() - self.begin, "audio": self.audio, "bytes": self.bytes}
            cost = {name: total / PROMPTS for name, total in totals.items()}
            with open(os.environ["BENCH_RECORD"], "a") as file:
                print(json.dumps(cost), file=file)


class PerRolloutWorker(MeasuredWorker):
    """Worker that encodes as verl does: for each rollout, stored with each row."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

        async def encode(self, shared, messages):
            return await self.loop.run_in_executor(None, self._encode_now, list(messages), True)

        SpeechAgentLoop._encode = encode

    async def _agent_loop_postprocess(self, output, validate, *, shared, **kwargs):
        await super(SpeechAgentLoopWorker, self)._agent_loop_postprocess(output, validate, **kwargs)

    def _compute_multi_modal_inputs(self, output, input_ids):
        return output.audio[0].features if output.audio else {}


class OnceManager(SpeechAgentLoopManager):
    worker_class = MeasuredWorker


class PerRolloutManager(SpeechAgentLoopManager):
    worker_class = PerRolloutWorker


def _bytes(fields) -> int:
    """Bytes of all tensors in fields of the queue."""
    if isinstance(fields, torch.Tensor):
        return fields.nbytes if not fields.is_nested else sum(map(_bytes, fields.unbind()))
    if isinstance(fields, list | tuple):
        return sum(map(_bytes, fields))
    if hasattr(fields, "tolist") and not hasattr(fields, "keys"):  # a stack of objects
        return _bytes(fields.tolist())
    return sum(_bytes(fields[name]) for name in fields.keys()) if hasattr(fields, "keys") else 0


def measure(manager: str, n: int, options) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record")
        recipe = Recipe(
            options.model.parent,
            Path(folder, "run"),
            MODEL=str(options.model),
            TRAIN=str(options.train),
            VAL=str(options.val),
            BENCH_RECORD=str(record),
        )
        recipe.finish(
            "algorithm.adv_estimator=grpo",
            f"data.train_batch_size={PROMPTS}",
            f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
            f"actor_rollout_ref.rollout.n={n}",
            f"trainer.total_training_steps={STEPS}",
            "trainer.val_before_train=False",
            "trainer.test_freq=-1",
            "trainer.save_freq=-1",
            f"actor_rollout_ref.rollout.agent.agent_loop_manager_class=tests.benchmarks.once_per_prompt.{manager}",
        )
        return json.loads(record.read_text().strip().split("\n")[STEPS - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "train", "val"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[1, 8, 16])
    options = parser.parse_args()
    table = Table("n", "encoded and stored", "audio, CPU ms a prompt", "all, CPU ms a prompt", "MB a prompt")
    first = {}
    for n in options.rollouts:
        for manager, label in (("PerRolloutManager", "once a rollout"), ("OnceManager", "once a prompt")):
            cost = measure(manager, n, options)
            base = first.setdefault(manager, cost)
            cells = (("audio", 1e3, ".1f"), ("all", 1e3, ".1f"), ("bytes", 1e-6, ".3f"))
            table.add_row(
                str(n),
                label,
                *(f"{unit * cost[name]:{digits}} ({cost[name] / base[name]:.2f}x)" for name, unit, digits in cells),
            )
    Console().print(table)


if __name__ == "__main__":
    main()
