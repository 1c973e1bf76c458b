# Copyright 2026 Bytedance Ltd. and/or its affiliates
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Rows of a batch are selected with work for the selected rows alone."""

import cProfile
import pstats

import pytest
import torch
from tensordict import NonTensorStack, TensorDict

from verl.utils import tensordict_utils as tu


def batch_of(rows):
    lengths = [1 + row % 5 for row in range(rows)]
    jagged = tu.nested_tensor_from_tensor_list
    columns = {
        "dense": torch.arange(3 * rows).reshape(rows, 3),
        "tokens": jagged([torch.arange(length) + 10 * row for row, length in enumerate(lengths)]),
        "position_ids": jagged([torch.arange(3 * length).view(3, length) for length in lengths], ragged_idx=2),
        "routed_experts": jagged([torch.rand(length, 2, 4) for length in lengths], ragged_idx=1),
        "uid": NonTensorStack(*map(str, range(rows))),
    }
    return TensorDict(columns, batch_size=rows)


@pytest.mark.parametrize("indices", [[2, 0, 2], torch.tensor([6]), torch.arange(7), [-1, 3]])
def test_the_selected_rows_are_those_of_unbind(indices):
    batch = batch_of(7)
    selected = tu.index_select_tensor_dict(batch, indices)
    for name in ("tokens", "position_ids", "routed_experts"):
        rows = batch[name].unbind()
        assert selected[name]._ragged_idx == batch[name]._ragged_idx
        for row, idx in zip(selected[name].unbind(), torch.as_tensor(indices), strict=True):
            torch.testing.assert_close(row, rows[idx])
    torch.testing.assert_close(selected["dense"], batch["dense"][torch.as_tensor(indices)])


def test_a_strided_nested_tensor():
    column = torch.nested.nested_tensor([torch.arange(2), torch.arange(3)])
    (row,) = tu.selected_rows(column, torch.tensor([1]))
    assert row.tolist() == [0, 1, 2]


def test_the_work_does_not_grow_with_the_batch():
    calls = []
    for rows in (8, 8, 800):  # the first call imports
        batch, profile = batch_of(rows), cProfile.Profile()
        profile.runcall(tu.index_select_tensor_dict, batch, [1, 2])
        calls.append(pstats.Stats(profile).total_calls)
    assert calls[2] < 1.5 * calls[1]
