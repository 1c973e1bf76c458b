"""Run every batch through the actor both ways: with the prompts that rollouts share computed once, and as verl does.

verl loads this by ``actor_rollout_ref.model.external_lib=tests.helpers.comparing`` in each worker; a line for each
batch goes to ``$COMPARED``. Training uses the results of sharing.
"""

import json
import os
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from verl.workers.utils.padding import no_padding_2_padding

from verl_leaf.training.sharing.engine import SharingEngine

FLAG = "actor_rollout_ref.model.override_config.share_prompts=True"
FLAGS = ["actor_rollout_ref.model.external_lib=tests.helpers.comparing"]

once = SharingEngine.forward_backward_batch
pack = SharingEngine._pack


def both_ways(self, data, loss_function, forward_only=False):
    results = []
    for share in (False, True):
        self.shares, self.packed = share, 0
        for weight in self.module.parameters():
            weight.grad = None
        output = once(self, data, loss_function, forward_only)
        gradients = [_local(weight.grad).clone() for weight in self.module.parameters() if weight.grad is not None]
        results.append((output, gradients))
    (stock, stock_gradients), (shared, gradients) = results
    record = {"forward_only": forward_only, "rows": len(data), "packed": self.packed}
    for name in ("log_probs", "entropy"):
        if name in stock.get("model_output", {}):
            ours, theirs = (no_padding_2_padding(output["model_output"][name], data) for output in (shared, stock))
            record[name] = (ours - theirs).abs().max().item()
    if not forward_only:
        # Their sum, because with sharing a prompt's rows stay in one micro-batch.
        record["loss"] = abs(sum(shared["loss"]) - sum(stock["loss"]))
        norm = torch.stack([each.norm() for each in stock_gradients]).norm()
        difference = [one - other for one, other in zip(stock_gradients, gradients, strict=True)]
        record["gradient"] = (torch.stack([each.norm() for each in difference]).norm() / norm).item() if norm else 0.0
        record["gradient_norm"] = norm.item()
    with open(Path(os.environ["COMPARED"]) / f"{os.getpid()}.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")
    return shared


def counted(self, micro_batch):
    self.packed += 1
    return pack(self, micro_batch)


def _local(gradient):
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def read(folder: Path) -> list[dict]:
    return [
        json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().strip().split("\n")
    ]


def assert_the_same(folder: Path, updates: int) -> None:
    """Assert that log-probabilities, entropies, losses and gradients agree to 1e-5, in mostly packed batches."""
    records = read(folder)
    forward = [record for record in records if record["forward_only"]]
    trained = [record for record in records if not record["forward_only"]]
    assert forward and len(trained) >= updates
    assert any(record["packed"] for record in forward) and any(record["packed"] for record in trained)
    for record in records:
        assert max(record.get(name, 0) for name in ("log_probs", "entropy", "loss")) < 1e-5, record
        assert record.get("gradient", 0) < 1e-5, record
    assert any(record["gradient_norm"] > 1e-4 for record in trained)


if "COMPARED" in os.environ:
    SharingEngine.forward_backward_batch = both_ways
    SharingEngine._pack = counted
