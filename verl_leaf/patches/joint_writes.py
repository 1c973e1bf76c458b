"""verl's agent loops write each response into TransferQueue separately.

verl/trainer/ppo/v1/agent_loop_tq.py AgentLoopWorkerTQ._agent_loop_postprocess (0.9.1) asks the queue's controller for a
place, sends the row to a storage, notifies the controller, and gives it the row's tags. Responses end at similar times,
because they are sampled together. So those that end while others are being written can share one message of each kind.
"""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from verl_leaf.patches.base import SOLVED, TESTED_VERSIONS, PatchError, expect, says

WRITE = "await tq.async_kv_batch_put("
UPSTREAM = "joint_writer.put("  # in verl's source once recipes/upstream/8_joint_writes is in it
MAKE_BATCH = "fields=list_of_dict_to_tensordict(fields)"


@dataclass
class _Rows:
    """The rows that one response writes."""

    keys: list[str]
    fields: list[dict]
    tags: list[dict]
    partition_id: str
    written: asyncio.Future

    @property
    def kind(self) -> tuple:
        """Key that is equal for rows that fit into one batch: the same columns, with values that differ only in length."""
        return self.partition_id, *sorted(
            (name, value.dim(), *value.shape[1:]) if isinstance(value, torch.Tensor) else (name, -1)
            for row in self.fields
            for name, value in row.items()
        )


class JointWrites:
    """A replacement of ``transfer_queue`` for agent loops, which writes rows together that arrive during another write."""

    def __init__(self, queue: ModuleType, batch_of: Callable):
        self._queue, self._batch_of = queue, batch_of
        self._waiting: list[_Rows] = []
        self._writer: asyncio.Task | None = None

    def __getattr__(self, name: str):
        return getattr(self._queue, name)

    def __reduce__(self):
        """Return how to rebuild the object, because Ray copies verl's worker by value (the actor's class has its name)."""
        return JointWrites, (self._queue, self._batch_of)

    async def async_kv_batch_put(
        self, *, keys: list[str], fields: list[dict], tags: list[dict], partition_id: str
    ) -> None:
        written = asyncio.get_running_loop().create_future()
        self._waiting.append(_Rows(keys, fields, tags, partition_id, written))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        await written

    async def _write_all(self) -> None:
        while self._waiting:
            kind = self._waiting[0].kind
            batch = [rows for rows in self._waiting if rows.kind == kind]
            self._waiting = [rows for rows in self._waiting if rows.kind != kind]
            await self._write(batch)

    async def _write(self, batch: list[_Rows]) -> None:
        try:
            await self._queue.async_kv_batch_put(
                keys=[key for rows in batch for key in rows.keys],
                fields=self._batch_of([row for rows in batch for row in rows.fields]),
                tags=[tags for rows in batch for tags in rows.tags],
                partition_id=batch[0].partition_id,
            )
        except Exception as error:
            if len(batch) > 1:  # one response causes the error, and the other prompts must not fail with it
                for rows in batch:
                    await self._write([rows])
            elif not batch[0].written.cancelled():
                batch[0].written.set_exception(error)
        else:
            for rows in batch:
                if not rows.written.cancelled():
                    rows.written.set_result(None)


def _patch(module: ModuleType) -> str:
    batch_of = expect(module, "list_of_dict_to_tensordict", "list_of_dicts")
    expect(module, "tq.async_kv_batch_put")
    worker = module.AgentLoopWorkerTQ.__ray_metadata__.modified_class
    if says(worker._agent_loop_postprocess, UPSTREAM):
        return SOLVED
    if not all(says(worker._agent_loop_postprocess, text) for text in (WRITE, MAKE_BATCH)):
        raise PatchError(f"{module.__name__}.AgentLoopWorkerTQ writes its rows in another way. {TESTED_VERSIONS}")

    module.tq = JointWrites(module.tq, batch_of)
    module.list_of_dict_to_tensordict = functools.wraps(batch_of)(lambda list_of_dicts: list_of_dicts)
    return "active: verl writes every response by itself"


HOOKS = {"verl.trainer.ppo.v1.agent_loop_tq": _patch}
