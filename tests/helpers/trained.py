"""Updates of an actor by verl's own worker, on one rank or several, from the same rollouts."""

from pathlib import Path

import numpy as np
import torch

from tests.helpers import two_ranks

K, PROMPTS, RESPONSE = 4, 3, 5
Dealt = list[list[int]]  # the rows of each rank


def train(rank: int, port: int, folder: str, deals: dict[str, Dealt], out: str, shards: int) -> None:
    """Train for each deal, in mini-batches of one prompt; rank 0 writes adapters below ``out``, all ranks a checkpoint."""
    ranks = len(next(iter(deals.values())))
    two_ranks.start(rank, ranks, port)
    from peft import get_peft_model_state_dict
    from verl.utils import tensordict_utils as tu
    from verl.workers.config import TrainingWorkerConfig
    from verl.workers.engine_workers import TrainingWorker

    from tests.helpers import engines
    from verl_leaf.models import FAMILIES

    names = ("model_config", "engine_config", "optimizer_config", "checkpoint_config")
    settings = engines.settings(
        Path(folder), FAMILIES["qwen2_audio"], share=True, precision=engines.FP32, shards=shards
    )
    worker = TrainingWorker(
        TrainingWorkerConfig(model_type="language_model", **dict(zip(names, settings, strict=True)))
    )
    worker.set_loss_fn(engines.LOSS)
    random = np.random.default_rng(0)
    prompts = [random.integers(10, 200, 20 + number).tolist() for number in range(PROMPTS)]
    rows = [engines.Row(prompt, random.integers(10, 200, RESPONSE).tolist()) for prompt in prompts for _ in range(K)]
    advantages = torch.from_numpy(random.normal(size=(len(rows), RESPONSE))).float()
    for name, rows_of_rank in deals.items():
        torch.manual_seed(0)
        worker.reset()
        own = rows_of_rank[rank]
        batch = engines.build_batch([rows[row] for row in own], engines.Features().install(), K // ranks)
        batch["advantages"] = torch.nested.as_nested_tensor(list(advantages[own]), layout=torch.jagged)
        old, reference = engines.old_log_prob(worker.engine, batch)["log_probs"], engines.ref(worker.engine, batch)
        engines.add_log_probs(batch, old, reference)
        tu.assign_non_tensor(batch, calculate_entropy=False, global_batch_size=K, mini_batch_size=K)
        tu.assign_non_tensor(batch, dataloader_kwargs={"shuffle": False})
        worker.train_mini_batch(batch)
        weights = get_peft_model_state_dict(worker.engine.module)
        torch.save([weights[key].full_tensor() for key in sorted(weights)], Path(out, f"{name}.{rank}.pt"))
        worker.save_checkpoint(str(Path(out, f"{name}.checkpoint")))
    torch.distributed.destroy_process_group()


def trained(folder: Path, deals: dict[str, Dealt], out: Path, shards: int = -1) -> list[torch.Tensor]:
    """Return the weights of the adapter in a row, for each deal."""
    two_ranks.spawn(train, len(next(iter(deals.values()))), str(folder), deals, str(out), shards)
    return [torch.cat([each.flatten() for each in torch.load(out / f"{name}.0.pt")]) for name in deals]
