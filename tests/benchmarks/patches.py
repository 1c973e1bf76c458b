"""What the patches that only save time save, each measured alone, with and without it in turns.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.patches

CPU milliseconds of this process and of all that it has started, for a batch of 64 rows like those of the quick start.
"""

import asyncio
import inspect
import time
from collections.abc import Callable

import psutil
import ray
import torch
import transfer_queue
import vllm.lora.punica_wrapper.punica_cpu as punica
from rich.table import Table
from tensordict import NonTensorStack, TensorDict
from verl.utils import tensordict_utils, transferqueue_utils

from verl_leaf.common.console import Console
from verl_leaf.patches.joint_writes import JointWrites

ROWS = 64
TENSORS = ("input_ids", "position_ids", "prompts", "responses", "response_mask", "loss_mask", "rollout_log_probs")
OBJECTS = {
    "raw_prompt": [
        {"role": "user", "content": [{"type": "audio", "audio": "/a/clip.wav"}, {"type": "text", "text": "?"}]}
    ],
    "reward_model": {"style": "rule", "ground_truth": ["zwei alte Hunde schlafen im Garten"]},
    "extra_info": {"id": "a", "split": "train", "index": 3, "question": "Translate into German."},
    **dict.fromkeys(("uid", "data_source", "agent_name", "ability"), "a" * 16),
    **{name: {"generate_sequences": 1.0} for name in ("tools_kwargs", "interaction_kwargs", "metrics")},
}


def cpu_milliseconds(call: Callable[[], object], times: int = 20) -> float:
    """CPU milliseconds of a call."""

    def used() -> float:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        return sum(each.cpu_times().user + each.cpu_times().system for each in processes)

    call()
    began = used()
    for _ in range(times):
        call()
    return 1000 * (used() - began) / times


def row(number: int) -> dict:
    """The columns of a response."""
    tensors = {name: torch.arange(60 + number % 30) for name in TENSORS}
    return tensors | OBJECTS | {"multi_modal_inputs": {"features_key": torch.ones(1, 16, dtype=torch.uint8)}}


def fetches() -> tuple[Callable, Callable]:
    """A worker's fetch of a batch, of all columns and of those that it reads."""
    keys = [f"fetch_{number}_0" for number in range(ROWS)]
    fields = tensordict_utils.list_of_dict_to_tensordict([row(number) for number in range(ROWS)])
    meta = transfer_queue.kv_batch_put(keys=keys, partition_id="fetch", fields=fields, tags=[{}] * ROWS)
    patched = transferqueue_utils.async_kv_batch_meta2batch_meta

    def fetch(select: Callable) -> None:
        transferqueue_utils.async_kv_batch_meta2batch_meta = select
        transferqueue_utils._meta_to_realdata(meta)

    return lambda: fetch(inspect.unwrap(patched)), lambda: fetch(patched)


def writes() -> tuple[Callable, Callable]:
    """Writing of responses that end within four milliseconds, each by itself and together."""

    async def one_by_one(*, keys, fields, tags, partition_id):
        batch = tensordict_utils.list_of_dict_to_tensordict(fields)
        await transfer_queue.async_kv_batch_put(keys=keys, fields=batch, tags=tags, partition_id=partition_id)

    async def write(put: Callable) -> None:
        async def response(number: int) -> None:
            await asyncio.sleep(0.0005 * (number % 8))
            key = f"{time.monotonic_ns()}_{number}_0"
            await put(keys=[key], fields=[row(number)], tags=[{}], partition_id="write")

        await asyncio.gather(*map(response, range(ROWS)))

    joint = JointWrites(transfer_queue, tensordict_utils.list_of_dict_to_tensordict)
    return lambda: asyncio.run(write(one_by_one)), lambda: asyncio.run(write(joint.async_kv_batch_put))


def selections() -> tuple[Callable, Callable]:
    """Splitting of 1,024 rows into mini-batches of 16."""
    rows = 16 * ROWS
    tokens = tensordict_utils.nested_tensor_from_tensor_list([torch.arange(60 + row % 30) for row in range(rows)])
    batch = TensorDict(dict.fromkeys(TENSORS, tokens) | {"uid": NonTensorStack(*["a"] * rows)}, batch_size=rows)
    patched = tensordict_utils.index_select_tensor_dict

    def split(select: Callable) -> None:
        for first in range(0, rows, 16):
            select(batch, torch.arange(first, first + 16))

    return lambda: split(inspect.unwrap(patched)), lambda: split(patched)


def adapters() -> tuple[Callable, Callable]:
    """LoRA of rank 8 on a layer of width 576, for 512 tokens."""
    tokens, width, rank = 512, 576, 8
    x, a, b = torch.randn(tokens, width), torch.randn(1, 1, rank, width), torch.randn(1, 1, width, rank)
    middle, out = torch.zeros(tokens, rank), torch.zeros(tokens, width)
    segments = (torch.tensor([0]), torch.tensor([tokens]), torch.tensor([0]), 1, tokens, tokens)

    def layer(shrink: Callable, expand: Callable) -> None:
        shrink(x, a, middle, *segments, 1.0)
        expand(middle, b, out, *segments, 0, width, True)

    pair = punica.sgmv_shrink, punica.sgmv_expand_slice
    return lambda: layer(*map(inspect.unwrap, pair)), lambda: layer(*pair)


def main() -> None:
    ray.init("local", num_cpus=8, include_dashboard=False)
    transfer_queue.init()
    table = Table("patch", "what", "without", "with", title="CPU ms, two turns")
    for name, measured in (
        ("fetched_columns", fetches),
        ("joint_writes", writes),
        ("selected_rows", selections),
        ("lora_on_cpu", adapters),
    ):
        pair = measured()
        turns = [[cpu_milliseconds(call) for call in pair] for _ in range(2)]
        cells = (", ".join(f"{value:.1f}" for value in values) for values in zip(*turns, strict=True))
        table.add_row(name, (measured.__doc__ or "").rstrip("."), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
