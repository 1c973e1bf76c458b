"""verl takes a mini-batch or micro-batch out of a batch with work for every row of the batch.

verl/utils/tensordict_utils.py index_select_tensor_dict (0.9.1) unbinds each jagged column: torch makes a tensor for every
row, also for those that are not selected. A step with N times as many rows has N times as many mini-batches, so this work
grows with the square of the batch.
"""

import functools
from types import ModuleType

import torch

from verl_leaf.patches.base import SOLVED, TESTED_VERSIONS, PatchError, expect, says

SLOW = "tensor_lst = tensor.unbind()"
UPSTREAM = "selected_rows("  # in verl's source once recipes/upstream/13_selected_rows is in it


def selected_rows(column: torch.Tensor, indices: torch.Tensor) -> list[torch.Tensor]:
    """Return rows of a jagged tensor, as views.

    Args:
        column: jagged, with the rows ``[..., length of the row, ...]`` one behind the other in its values.
        indices: ``[n]`` int64, numbers of rows, negative ones from the end.
    """
    indices = indices.to(column.offsets().device) % len(column)
    starts, ends = column.offsets()[indices].tolist(), column.offsets()[indices + 1].tolist()
    values, axis = column.values(), column._ragged_idx - 1  # the values have no axis of rows
    return [values.narrow(axis, start, end - start) for start, end in zip(starts, ends, strict=True)]


def _patch(module: ModuleType) -> str:
    original = expect(module, "index_select_tensor_dict", "batch", "indices")
    join = expect(module, "nested_tensor_from_tensor_list", "tensors", "ragged_idx")
    if says(original, UPSTREAM):
        return SOLVED
    if not says(original, SLOW):
        raise PatchError(f"{module.__name__}.index_select_tensor_dict selects rows in another way. {TESTED_VERSIONS}")

    @functools.wraps(original)
    def of_selected_rows(batch, indices):
        if batch is None:
            return original(batch, indices)
        indices = torch.as_tensor(indices)
        jagged = {
            name: join(selected_rows(column, indices), ragged_idx=column._ragged_idx)
            for name, column in batch.items()
            if getattr(column, "layout", None) is torch.jagged and column.lengths() is None
        }
        return original(batch.exclude(*jagged), indices).update(jagged)

    module.index_select_tensor_dict = of_selected_rows
    return "active: verl unbinds every row of a batch for each mini-batch"


HOOKS = {"verl.utils.tensordict_utils": _patch}
