"""A lane of the study: verl's trainer with its engines started once, which serves one cell after another.

    python -m examples.leaf_against_grpo.lane FOLDER CELLS.json [Hydra overrides of leaf_speech_cpu]

Everything that trains is verl's own `main_ppo`: its task runner, its `sync` trainer, its workers. A cell begins by
loading the checkpoint that the study starts from (adapter, optimiser, schedule, random state), or the cell's own last one
if it was interrupted. Several lanes may work on the same cells; each claims those that no other is at.

Prompts come in the same order, and responses are sampled with the same seeds, for all methods of a seed.
"""

import fcntl
import functools
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import ray
import torch
from omegaconf import OmegaConf, open_dict
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import PPOTrainerSync, trainer_base
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.utils import tensordict_utils as tu
from verl.utils.config import validate_config

from examples.leaf_against_grpo.cells import AT_RMS_OF_GRPO, SCALE_METHODS
from verl_leaf.common.console import Console
from verl_leaf.config import compose
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.summary import summarise
from verl_leaf.speech.agent_loop import SpeechAgentLoopManager, SpeechAgentLoopWorker
from verl_leaf.training import estimator

ADVANTAGE_RMS = "study/advantage_rms"
"""The metric that holds the :func:`rms` of a step's advantages."""


class SeededWorker(SpeechAgentLoopWorker):
    """Agent loop worker whose sampling seeds derive from the cell's seed, the step, the row and the response's number."""

    async def _run_agent_loop(self, sampling_params: dict, *, trajectory: dict, sampling_seed: int, **kwargs) -> None:
        kind = "validation" if trajectory["validate"] else "training"
        own = f"{sampling_seed} {kind} {trajectory['step']} {kwargs['index']} {kwargs['session_id']}"
        seed = int.from_bytes(hashlib.sha256(own.encode()).digest()[:4], "big")
        await super()._run_agent_loop({**sampling_params, "seed": seed}, trajectory=trajectory, **kwargs)


class SeededManager(SpeechAgentLoopManager):
    """Manager that hands the current cell's seed and number of responses to workers that live longer than a cell."""

    worker_class = SeededWorker
    seed: int
    responses: int

    def generate_sequences(self, prompts) -> None:
        tu.assign_non_tensor_data(prompts, "sampling_seed", self.seed)
        if "validate" not in prompts:
            tu.assign_non_tensor_data(prompts, "__rollout_n__", self.responses)
        super().generate_sequences(prompts)


class CellsTrainer(PPOTrainerSync):
    """verl's trainer, whose `fit` trains every cell that is not done."""

    def fit(self, agent_loop_manager: SeededManager) -> None:
        study = self.config
        start = self._start_checkpoint()
        for cell, overrides in study.study.cells.items():
            folder = RunFolder(Path(study.study.folder) / cell)
            with claimed(folder.path) as mine:
                if mine and not folder.finished:
                    self.config = OmegaConf.merge(study, OmegaConf.from_dotlist(list(overrides)))
                    self._fit_cell(folder, start, agent_loop_manager)

    def _fit_cell(self, folder: RunFolder, start: Path, agent_loop_manager: SeededManager) -> None:
        trainer = self.config.trainer
        folder.metrics.mkdir(exist_ok=True)
        with open_dict(self.config):
            trainer.experiment_name = str(folder.path)
            trainer.default_local_dir = str(folder.checkpoints)
            trainer.validation_data_dir = str(folder.validation)
            self.config.algorithm.leaf.trace_dir = str(folder.traces)
            if not folder.resumable:
                own = shutil.copytree(start, folder.path / "start" / start.name, dirs_exist_ok=True)
                set_rate(own / "actor", self.config.actor_rollout_ref.actor.optim.lr)
                trainer.resume_mode, trainer.resume_from_path = "resume_path", str(own)
            trainer.val_before_train = trainer.val_before_train and not folder.resumable
        folder.config.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder.config)
        os.environ["VERL_FILE_LOGGER_PATH"] = str(folder.metrics / f"{len(list(folder.metrics.iterdir())):03d}.jsonl")
        agent_loop_manager.seed = self.config.data.seed
        agent_loop_manager.responses = self.config.actor_rollout_ref.rollout.n
        self._init_dataloader()
        self._init_dump_executor()
        self._load_checkpoint()
        self.on_init_end()  # the rollout engine gets the weights
        if self.global_steps < self.total_training_steps:
            super().fit(agent_loop_manager)
            self.logger.finish()
        summarise(folder, Console())
        for leftover in (folder.checkpoints, folder.path / "start"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _compute_advantage(self, batch, metrics):
        """Compute advantages as verl does; if the cell lists estimators, run each on the same rollouts and time it."""
        methods = list(self.config.study.side_by_side) or [self.config.algorithm.adv_estimator]
        if self.global_steps % 2:
            methods.reverse()
        for method in methods:
            self.config.algorithm.adv_estimator = method
            began = time.perf_counter()
            result = super()._compute_advantage(batch, metrics)
            metrics[f"timing_s/adv_{method}"] = time.perf_counter() - began
        rows = trainer_base.tq.kv_batch_get(
            keys=result.keys, partition_id=result.partition_id, select_fields=["advantages", "response_mask"]
        ).to_padded_tensor()
        metrics[ADVANTAGE_RMS] = rms(rows["advantages"], rows["response_mask"])
        return result

    def _start_checkpoint(self) -> Path:
        """Return the checkpoint from which all cells begin, except for their learning rates; the first lane saves it."""
        folder = Path(self.config.study.folder) / "start"
        checkpoint = folder / "global_step_0"
        with claimed(folder, wait=True):
            if not (folder / "latest_checkpointed_iteration.txt").exists():
                with open_dict(self.config):
                    self.config.trainer.default_local_dir = str(folder)
                self._save_checkpoint()
            (checkpoint / "data.pt").unlink(missing_ok=True)  # a cell's order of prompts is its seed's
        return checkpoint


def set_rate(checkpoint: Path, rate: float) -> None:
    """Set the learning rate in a checkpoint of verl's FSDP engine with one process.

    verl puts back what the checkpoint says of optimiser and schedule
    (verl 0.9.1 utils/checkpoint/fsdp_checkpoint_manager.py), not what the configuration does.
    """
    optimizer, extra = (checkpoint / f"{kind}_world_size_1_rank_0.pt" for kind in ("optim", "extra_state"))
    state = torch.load(optimizer, weights_only=False)
    for group in state["param_groups"]:
        group["lr"] = group["initial_lr"] = rate
    torch.save(state, optimizer)
    state = torch.load(extra, weights_only=False)
    schedule = state["lr_scheduler"]
    schedule["base_lrs"] = schedule["_last_lr"] = [rate] * len(schedule["base_lrs"])
    torch.save(state, extra)


def rms(advantages: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the root mean square of advantages `[N, T]`, in which each response has the same weight, as in the loss."""
    squares = (advantages.square() * mask).sum(1) / mask.sum(1).clamp(min=1)
    return squares.mean().sqrt().item()


def at_rms_of_grpo(
    name: str,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config=None,
    *,
    batch: Mapping[str, torch.Tensor],
    report: Callable | None = None,
    **_,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute one of our estimators' advantages, scaled to the root mean square of GRPO's on the same rollouts."""
    given = (token_level_rewards, response_mask, index)
    advantages, _ = estimator.FUNCTIONS[name](*given, config, batch=batch, report=report)
    grpo, _ = core_algos.compute_grpo_outcome_advantage(*given)
    scaled = advantages * (rms(grpo, response_mask) / max(rms(advantages, response_mask), 1e-9))
    return scaled, scaled


@contextmanager
def claimed(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Yield True if this process holds the folder for the time of the block, False if another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


class Lane(TaskRunnerV1.__ray_metadata__.modified_class):
    """verl's task runner with the trainer of cells in place of the `sync` one."""

    def run(self, config) -> None:
        TRAINER_REGISTRY["sync"] = CellsTrainer
        for method in SCALE_METHODS:
            if (name := method.removesuffix(AT_RMS_OF_GRPO)) != method:
                core_algos.ADV_ESTIMATOR_REGISTRY[method] = functools.partial(at_rms_of_grpo, name)
        super().run(config)


def main(folder: Path, cells: dict[str, list[str]], overrides: list[str]) -> None:
    config = compose("leaf_speech_cpu", overrides)
    validate_config(config, need_reference_policy(config), need_critic(config))
    with open_dict(config):
        config.study = {"folder": str(folder), "cells": cells, "side_by_side": []}
    run_ppo(config, task_runner_class=ray.remote(Lane))


if __name__ == "__main__":
    from examples.leaf_against_grpo import lane  # by its name, so that Ray's workers import the classes

    lane.main(Path(sys.argv[1]).resolve(), json.loads(Path(sys.argv[2]).read_text()), sys.argv[3:])
