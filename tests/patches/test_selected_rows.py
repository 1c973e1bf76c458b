"""Rows of a batch are selected as verl selects them, with work for the selected rows alone."""

import cProfile
import inspect
import pstats

import pytest
import torch
from tensordict import NonTensorData, NonTensorStack, TensorDict
from verl.utils import tensordict_utils

PATCHED = tensordict_utils.index_select_tensor_dict
ORIGINAL = inspect.unwrap(PATCHED)


def batch_of(rows: int) -> TensorDict:
    jagged = tensordict_utils.nested_tensor_from_tensor_list
    lengths = [1 + row % 5 for row in range(rows)]
    columns = {
        "dense": torch.arange(3 * rows).reshape(rows, 3),
        "tokens": jagged([torch.arange(length) + 10 * row for row, length in enumerate(lengths)]),
        "positions": jagged([torch.arange(3 * length).view(3, length) for length in lengths], ragged_idx=2),
        "experts": jagged([torch.rand(length, 2, 4) for length in lengths], ragged_idx=1),
        "uid": NonTensorStack(*map(str, range(rows))),
        "temperature": NonTensorData(0.8),
    }
    return TensorDict(columns, batch_size=rows)


@pytest.mark.parametrize("indices", [[2, 0, 2], torch.tensor([6]), torch.arange(7), [-1, 3]])
def test_the_rows_are_those_that_verl_selects(indices):
    batch = batch_of(7)
    tensordict_utils.assert_tensordict_eq(PATCHED(batch, indices), ORIGINAL(batch, indices))
    assert PATCHED(batch, indices)["positions"]._ragged_idx == 2
    assert PATCHED(None, indices) is None


def test_the_work_does_not_grow_with_the_batch():
    calls = []
    for rows in (8, 8, 800):  # the first call imports
        batch, profile = batch_of(rows), cProfile.Profile()
        profile.runcall(PATCHED, batch, [1, 2])
        calls.append(pstats.Stats(profile).total_calls)
    assert calls[2] < 1.5 * calls[1]


def test_mini_and_micro_batches_are_selected_so():
    (mini, *_) = tensordict_utils.make_iterator(batch_of(8), mini_batch_size=2, epochs=1)
    assert mini["tokens"].offsets().tolist() == [0, 1, 3]
    assert tensordict_utils.make_iterator.__globals__["index_select_tensor_dict"] is PATCHED
