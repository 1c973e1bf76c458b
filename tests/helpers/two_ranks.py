"""Two FSDP ranks over gloo that write down every collective, with micro-batches that differ in all that can differ."""

import datetime
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

RESPONSE = 6


class Collectives(TorchDispatchMode):
    """Mode that records the name and the sizes of each collective, in order."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("c10d", "_c10d_functional"):
            tensors = torch.utils._pytree.tree_leaves(args)
            sizes = [list(each.shape) for each in tensors if isinstance(each, torch.Tensor)]
            self.seen.append([func._schema.name, sizes])
        return func(*args, **(kwargs or {}))


def start(rank: int, ranks: int, port: int) -> None:
    """Join the process group of all ranks; a rank that waits for the others in vain leaves it and fails."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=300)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks, timeout=timeout)


def run(rank: int, port: int, folders: dict[str, str], out: str) -> None:
    """Run one rank, which writes its collectives for each family and case to ``out``."""
    start(rank, 2, port)
    from tests.helpers import engines
    from verl_leaf.models import FAMILIES

    store = engines.Features().install()
    for name, folder in folders.items():
        family = FAMILIES[name]
        # bf16 and gradient checkpointing, as on a GPU.
        engine = engines.build_engine(Path(folder), family, share=True, precision=None, checkpointing=True)
        for case, (rows, size, share) in cases(family, engine.model_config.get_processor(), rank).items():
            engine.shares = share
            with Collectives() as collectives:
                engines.step(engine, engines.build_batch(rows, store, size))
            (Path(out) / f"{name}.{case}.{rank}.json").write_text(json.dumps(collectives.seen))
    torch.distributed.destroy_process_group()


def cases(family, processor, rank: int) -> dict:
    """Return, for each case: rows, rows per micro-batch, and whether this rank shares prompts."""
    from tests.helpers.engines import Row

    generator = np.random.default_rng(rank)

    def prompt(*seconds: float, words: str = "Translate."):
        clips = [generator.normal(size=int(16000 * length)).astype(np.float32) / 9 for length in seconds]
        ids, features = family.encode(processor, processor.audio_token * len(clips) + words, clips)
        return ids, features or None

    def rollouts(prompt, count: int, length: int = RESPONSE):
        ids, features = prompt
        return [Row(ids, generator.integers(10, 200, length).tolist(), features) for _ in range(count)]

    def ranks(one, other, size=4, share=(True, True)):
        return (one, other)[rank], size, share[rank]

    fillers = [Row([2] * 7, [2]) for _ in range(4)]  # as verl/trainer/ppo/padding_utils.py makes them
    texts = rollouts(prompt(words="A question without audio."), 4)
    clips = prompt(2, 3) if family.max_clips is None else prompt(5)
    return {
        "fillers": ranks(rollouts(prompt(1), 4), fillers),
        "no_audio": ranks(texts, rollouts(prompt(1), 4)),
        "some_without_audio": ranks(rollouts(prompt(2), 4), rollouts(prompt(1), 2) + texts[:1] + fillers[:1]),
        "clips": ranks(rollouts(prompt(1), 4), [row for _ in range(4) for row in rollouts(clips, 1)] * 1),
        "prompts": ranks(rollouts(prompt(1), 4), rollouts(prompt(3), 2) + rollouts(prompt(0.7), 2)),
        "lengths": ranks(rollouts(prompt(29), 4, 40), rollouts(prompt(1), 4, 2)),
        "packed_or_not": ranks(rollouts(prompt(2), 4), rollouts(prompt(2), 4), share=(True, False)),
        "worth_it_or_not": ranks(rollouts(prompt(2), 4), rollouts(prompt(0.5), 4, 300)),
        "micro_batches": ranks(rollouts(prompt(1), 4), rollouts(prompt(3), 1) + fillers[:3], size=1),
    }


def spawn(function: Callable, ranks: int, *arguments) -> None:
    """Call ``function(rank, port, *arguments)`` in a process for each rank, and wait for all of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(function, (port, *arguments), nprocs=ranks)


def collectives(folders: dict[str, Path], out: Path) -> None:
    """Run both ranks to the end."""
    spawn(run, 2, {name: str(folder) for name, folder in folders.items()}, str(out))


def load_tied(rank: int, port: int, ranks: int, folder: str, family: str, out: str) -> None:
    """Load a model, on one rank or two; write its results after an update, and the devices of its weights."""
    start(rank, ranks, port)
    from tests.helpers import engines
    from verl_leaf.models import FAMILIES
    from verl_leaf.training.sharing.engine import SharingEngine

    build, devices = SharingEngine._build_module, []

    def build_module(engine):
        module = build(engine)
        devices.extend({weight.device.type for weight in module.parameters()})
        return module

    SharingEngine._build_module = build_module
    engine = engines.build_engine(Path(folder), FAMILIES[family], share=True, precision=engines.FP32, lora_rank=0)
    random = np.random.default_rng(0)
    prompt = random.integers(10, 200, 12).tolist()
    rows = [engines.Row(prompt, random.integers(10, 200, RESPONSE).tolist()) for _ in range(4)]
    batch = engines.build_batch(rows, engines.Features().install())
    old = engines.old_log_prob(engine, batch)["log_probs"]
    engines.update(engine, batch.clone(), old, old)
    after = engines.old_log_prob(engine, batch)["log_probs"]
    names = [name for name, _ in engine.module.named_parameters()]
    torch.save([devices, names, old.values(), after.values()], Path(out) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
