"""verl's workers fetch every column of a batch from TransferQueue, for every pass of the actor.

verl/utils/transferqueue_utils.py async_kv_batch_meta2batch_meta (0.9.1) leaves columns out if the trainer names the
ones that it needs, but the trainer never does. Of the columns with one object per row, most of them the dataset's, a
worker reads only ``multi_modal_inputs``. The others are packed, unpacked and split row by row for nothing.
"""

import functools
from types import ModuleType

from verl_leaf.patches.base import SOLVED, expect, says

UPSTREAM = "WORKER_OBJECT_FIELDS"  # in verl's source once recipes/upstream/7_fetched_columns is in it


def _patch(module: ModuleType) -> str:
    original = expect(module, "async_kv_batch_meta2batch_meta", "meta")
    if says(original, UPSTREAM):
        return SOLVED

    @functools.wraps(original)
    async def of_tensors(meta):
        batch = await original(meta)
        columns = batch.field_schema.items()
        needed = [name for name, schema in columns if name == "multi_modal_inputs" or not schema["is_non_tensor"]]
        return batch.select_fields(needed)

    module.async_kv_batch_meta2batch_meta = of_tensors
    return "active: verl's workers fetch every column of a batch"


HOOKS = {"verl.utils.transferqueue_utils": _patch}
